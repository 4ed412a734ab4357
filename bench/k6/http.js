// The HTTP side: people page through the history of their room and find every message that was said before, once; and
// people upload files and get back the same bytes.
//
//   -e VUS=5        who read, and as many who upload
//   -e SECONDS=20   -e PACE=1 (seconds between two pages or files; the daemon's own limit is 100 requests a minute a user)
//   -e SAYS=20      messages in each room before; the daemon lets a user say 30 at once
//   -e LIMIT=10     messages on a page
//   -e FILES=3  -e BYTES=65536   of each who uploads; the daemon takes 20 files an hour from a user

import { check, sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter, Trend } from 'k6/metrics';
import ws from 'k6/ws';
import { HTTP, TREND_STATS, URL, common, number, people } from './settings.js';

const VUS = Math.min(number('VUS', 5), people.length);
const SECONDS = number('SECONDS', 20);
const PACE_S = number('PACE', 1);
const SAYS = number('SAYS', 20);
const LIMIT = number('LIMIT', 10);
const FILES = number('FILES', 3);
const BYTES = number('BYTES', 65536);

const deliveries = new Counter('deliveries'); // messages that were found, and files that came back
const expected = new Counter('expected');
const undelivered = new Counter('undelivered');
const repeats = new Counter('repeats');
const pageTimes = new Trend('page_ms', true);
const uploadTimes = new Trend('upload_ms', true);
const downloadTimes = new Trend('download_ms', true);

export const options = {
  scenarios: {
    history: { executor: 'constant-vus', exec: 'history', vus: VUS, duration: `${Math.max(1, SECONDS)}s`, gracefulStop: '60s' },
    upload: {
      executor: 'per-vu-iterations',
      exec: 'upload',
      vus: VUS,
      iterations: FILES,
      maxDuration: `${SECONDS + 120}s`,
    },
  },
  thresholds: {
    checks: ['rate==1'],
    deliveries: ['count>0'],
    undelivered: ['count==0'],
    repeats: ['count==0'],
    page_ms: [`p(99)<${number('P99', 250)}`],
    upload_ms: [`p(99)<${number('UPLOAD_P99', 2000)}`],
  },
  summaryTrendStats: TREND_STATS,
};

function as(person, more = {}) {
  return { headers: { Authorization: `Bearer ${person.token}`, ...more } };
}

// One joins over WebSocket; a member who joins again is answered as well.
function join(person, roomId) {
  let joined = false;
  ws.connect(URL, {}, (socket) => {
    socket.on('open', () => socket.send(JSON.stringify({ type: 'authenticate', token: person.token })));
    socket.on('message', (text) => {
      const said = JSON.parse(text);
      if (said.type === 'authenticated') socket.send(JSON.stringify({ type: 'join_room', roomId, limit: 1 }));
      if (said.type === 'room_history') joined = true;
      if (joined || said.type.endsWith('error')) socket.close();
    });
    socket.setTimeout(() => socket.close(), 20000);
  });
  check(joined, { 'joined the room': (isIn) => isIn });
}

// Says SAYS things in the room of each who will read, and gives the ids that their pages must have.
export function setup() {
  deliveries.add(0);
  const { run, room } = common();
  const said = {};
  for (const person of people.slice(0, VUS)) {
    const roomId = person.roomId || room;
    join(person, roomId);
    said[roomId] = said[roomId] || [];
    for (let n = 0; n < SAYS; n++) {
      const body = JSON.stringify({ content: `${run}: ${n}` });
      const answer = http.post(`${HTTP}/api/rooms/${roomId}/messages`, body, as(person, { 'Content-Type': 'application/json' }));
      if (check(answer, { 'the message was taken': ({ status }) => status === 201 })) said[roomId].push(answer.json('id'));
    }
  }
  return { run, room, said };
}

// Back through the room until all that was said in setup() has been on a page.
export function history({ said, room }) {
  const person = people[(exec.vu.idInTest - 1) % VUS];
  const roomId = person.roomId || room;
  const wanted = new Set(said[roomId]);
  const due = wanted.size;
  let before = '';
  for (let hasMore = true; hasMore && wanted.size; ) {
    const page = http.get(`${HTTP}/api/rooms/${roomId}/messages?limit=${LIMIT}${before}`, as(person));
    pageTimes.add(page.timings.duration);
    if (!check(page, { 'the page came': ({ status }) => status === 200 })) return;
    const { messages, hasMore: goesOn } = page.json();
    check(messages, { 'messages ascend': (each) => each.every((one, n) => n === 0 || one.seq > each[n - 1].seq) });
    for (const message of messages) wanted.delete(message.id) && deliveries.add(1);
    if (messages.length === 0) break;
    before = `&beforeSeq=${messages[0].seq}`;
    hasMore = goesOn;
    sleep(PACE_S);
  }
  expected.add(due);
  undelivered.add(wanted.size);
  check(wanted, { 'every message was on a page': (missing) => missing.size === 0 });
}

export function upload({ run }) {
  const person = people[(exec.vu.idInTest - 1) % people.length];
  const line = `${run} of ${exec.vu.idInTest}, file ${exec.vu.iterationInScenario}. `;
  const text = line.repeat(Math.ceil(BYTES / line.length)).slice(0, BYTES);
  const body = { file: http.file(text, 'load.txt', 'text/plain') };
  expected.add(1);
  const taken = http.post(`${HTTP}/api/upload`, body, { ...as(person), timeout: '120s' });
  uploadTimes.add(taken.timings.duration);
  if (!check(taken, { 'the file was taken': ({ status }) => status === 201 })) {
    undelivered.add(1);
    return;
  }
  const file = taken.json('file');
  const back = http.get(file.url.startsWith('http') ? file.url : `${HTTP}${file.url}`, as(person));
  downloadTimes.add(back.timings.duration);
  const isSame = check(back, { 'the same bytes came back': (answer) => answer.status === 200 && answer.body === text });
  (isSame ? deliveries : undelivered).add(1);
  sleep(PACE_S);
}
