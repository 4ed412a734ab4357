// A conversation by everything that one does in a chat: join, type, send, read, leave; each reply is checked, and each
// event of the room is counted, also those who come and go.
//
//   -e VUS=20      people at once
//   -e VISITS=3    of each; the daemon lets a user join 20 rooms an hour
//   -e SAYS=5      messages in a visit
//   -e PACE=1      seconds between two of them

import { check } from 'k6';
import exec from 'k6/execution';
import { Client, metrics, sleep } from './client.js';
import { TREND_STATS, common, number, people, thresholds } from './settings.js';

const SAYS = number('SAYS', 5);
const PACE_MS = 1000 * number('PACE', 1);

export const options = {
  scenarios: {
    chat: {
      executor: 'per-vu-iterations',
      vus: Math.min(number('VUS', 20), people.length),
      iterations: number('VISITS', 3),
      maxDuration: '10m',
    },
  },
  thresholds: { ...thresholds(250), checks: ['rate==1'] },
  summaryTrendStats: TREND_STATS,
};

export function setup() {
  metrics.deliveries.add(0);
  return common();
}

export default async function visit(given) {
  const client = new Client(people[(exec.vu.idInTest - 1) % people.length], given);
  await sleep(Math.random() * PACE_MS);
  if (!(await client.open())) {
    metrics.losses.add(1);
    return;
  }
  if (await client.join()) {
    for (let said = 0; said < SAYS; said++) {
      client.put({ type: 'typing_start', roomId: client.roomId });
      await sleep(PACE_MS / 2);
      const ack = await client.say(`thing ${said + 1} of ${SAYS}`);
      check(ack, { 'the ack names the message': (each) => each !== null && each.messageId.length > 0 && each.seq > 0 });
      if (ack) await client.request({ type: 'mark_as_read', roomId: client.roomId, seq: ack.seq });
      await sleep(PACE_MS / 2);
    }
    client.put({ type: 'typing_stop', roomId: client.roomId });
    await client.settle();
    await client.leave();
  }
  client.close();
}
