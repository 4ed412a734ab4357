// A reconnect storm: all but the first of each VU lose their connection at once and come back with `resume`, while those
// who stayed talk on. What was missed meanwhile is due, once and in order. Whoever the server drops (restart it, if you
// like) comes back as well.
//
//   -e VUS=10      each with its share of the tokens
//   -e RATE=10     messages a second in all, before, during and after
//   -e SECONDS=20  of talk; the storm is after a third of it   -e CONNECT=10 (seconds for connecting)

import exec from 'k6/execution';
import { check } from 'k6';
import { metrics, now, openAll, sleep } from './client.js';
import { TREND_STATS, common, number, people, shareOf, thresholds } from './settings.js';

const VUS = Math.min(number('VUS', 10), people.length);
const RATE = number('RATE', 10);
const SECONDS = number('SECONDS', 20);
const CONNECT_MS = 1000 * number('CONNECT', 10);
const STORM_MS = CONNECT_MS + (1000 * SECONDS) / 3;

export const options = {
  scenarios: {
    storm: {
      executor: 'per-vu-iterations',
      vus: VUS,
      iterations: 1,
      maxDuration: `${Math.ceil(CONNECT_MS / 1000 + SECONDS + 180)}s`,
    },
  },
  thresholds: { ...thresholds(5000), caught_up_ms: [`max<${number('CAUGHT_UP', 15000)}`] },
  summaryTrendStats: TREND_STATS,
};

export function setup() {
  metrics.deliveries.add(0);
  return common();
}

async function strike(clients) {
  await sleep(STORM_MS - now());
  for (const client of clients) client.drop();
}

async function allAreBack(clients) {
  const until = now() + 60000;
  while (clients.some((client) => client.isComingBack) && now() < until) await sleep(50);
}

export default async function survive(given) {
  const vu = exec.vu.idInTest - 1;
  const clients = await openAll(shareOf(exec.vu.idInTest, VUS), given);
  for (const client of clients) client.comesBack = true;
  const [talker, ...others] = clients;
  const stricken = strike(others);
  const all = Math.round(RATE * SECONDS);
  for (let n = vu; n < all && talker; n += VUS) {
    await sleep(CONNECT_MS + (1000 * n) / RATE - now());
    if (!talker.isComingBack) await talker.say('said in the storm');
  }
  await stricken;
  await sleep(CONNECT_MS + 1000 * SECONDS + 500 - now());
  await allAreBack(clients);
  check(clients, { 'all are back': (each) => each.every((client) => !client.isComingBack) });
  await Promise.all(clients.map((client) => client.settle()));
  for (const client of clients) client.close();
}
