// The stages of the first design: in one minute to 100 people, in three to 1 000, in one to none. Each comes, says
// something every PACE seconds for about STAY seconds, and goes; then comes again.
//
//   -e MOST=1000   people at the top (the first stage goes to a tenth of them)
//   -e MINUTE=60   seconds that a minute of the stages lasts
//   -e STAY=20  -e PACE=3   seconds; the daemon's own limit is a message every two seconds for each user

import exec from 'k6/execution';
import { Client, metrics, now, sleep } from './client.js';
import { TREND_STATS, common, number, people, thresholds } from './settings.js';

const MOST = number('MOST', 1000);
const MINUTE_S = number('MINUTE', 60);
const STAY_MS = 1000 * number('STAY', 20);
const PACE_MS = 1000 * number('PACE', 3);

function stage(minutes, target) {
  return { duration: `${Math.round(1000 * minutes * MINUTE_S)}ms`, target };
}

export const options = {
  scenarios: {
    stages: {
      executor: 'ramping-vus',
      stages: [stage(1, Math.ceil(MOST / 10)), stage(3, MOST), stage(1, 0)],
      gracefulRampDown: '60s', // everyone ends a stay that has begun, and counts
      gracefulStop: '60s',
    },
  },
  thresholds: thresholds(500),
  summaryTrendStats: TREND_STATS,
};

export function setup() {
  metrics.deliveries.add(0);
  return common();
}

export default async function stay(given) {
  const client = new Client(people[(exec.vu.idInTest - 1) % people.length], given);
  await sleep(Math.random() * PACE_MS);
  if (!(await client.open())) {
    metrics.losses.add(1);
    return;
  }
  const end = now() + STAY_MS;
  for (let due = now(); due < end; due += PACE_MS) {
    await sleep(due - now());
    await client.say('one of many things that are said on the way up', due);
  }
  await client.settle();
  client.close();
}
