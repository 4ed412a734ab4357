// Everyone connects, then RATE messages a second are said for SECONDS, by each in turn, and everyone hears all of their
// room. A VU holds many connections, so that a thousand receivers cost k6 little.
//
//   -e VUS=10       each with its share of the tokens
//   -e RATE=20      messages a second in all
//   -e SECONDS=20   -e CONNECT=10 (seconds for connecting)

import exec from 'k6/execution';
import { metrics, now, openAll, sleep } from './client.js';
import { TREND_STATS, common, number, people, shareOf, thresholds } from './settings.js';

const VUS = Math.min(number('VUS', 10), people.length);
const RATE = number('RATE', 20);
const SECONDS = number('SECONDS', 20);
const CONNECT_MS = 1000 * number('CONNECT', 10);

export const options = {
  scenarios: {
    fanout: {
      executor: 'per-vu-iterations',
      vus: VUS,
      iterations: 1,
      maxDuration: `${Math.ceil(CONNECT_MS / 1000 + SECONDS + 120)}s`,
    },
  },
  thresholds: thresholds(500),
  summaryTrendStats: TREND_STATS,
};

export function setup() {
  metrics.deliveries.add(0);
  return common();
}

export default async function talk(given) {
  const vu = exec.vu.idInTest - 1;
  const clients = await openAll(shareOf(exec.vu.idInTest, VUS), given);
  const all = Math.round(RATE * SECONDS);
  const said = [];
  // Message n of all is due at its time and is said by VU n modulo VUS, whatever became of the last one.
  for (let n = vu; n < all && clients.length; n += VUS) {
    const due = CONNECT_MS + (1000 * n) / RATE;
    await sleep(due - now());
    said.push(clients[Math.floor(n / VUS) % clients.length].say('to all who are in this room', due));
  }
  await Promise.all(said);
  // Nobody stops counting before all have spoken.
  await sleep(CONNECT_MS + 1000 * SECONDS + 500 - now());
  await Promise.all(clients.map((client) => client.settle()));
  for (const client of clients) client.close();
}
