// What every script takes from its environment: where the daemon is, and as whom to talk to it.
//
//   -e URL=ws://127.0.0.1:3001     the WebSocket side
//   -e HTTP=http://127.0.0.1:3000  the HTTP side (http.js)
//   -e TOKENS=…                    access tokens with commas between, or a file: "token [roomId]" a line
//   -e ROOM=…                      the room to talk in where the file names none (default: the first that there is)
//   -e P99=…                       milliseconds that 99 % of deliveries may take

import { SharedArray } from 'k6/data';
import http from 'k6/http';

export const URL = __ENV.URL || 'ws://127.0.0.1:3001';
export const HTTP = __ENV.HTTP || 'http://127.0.0.1:3000';

export function number(name, usual) {
  const given = __ENV[name] === undefined || __ENV[name] === '' ? usual : Number(__ENV[name]);
  if (Number.isNaN(given)) throw new Error(`${name} must be a number, not ${__ENV[name]}`);
  return given;
}

// {token, roomId, number} of everyone; read once, not once a VU.
export const people = new SharedArray('people', () => {
  const given = __ENV.TOKENS || '';
  if (!given) throw new Error('Give access tokens: -e TOKENS=$(chatd token ada),$(chatd token bob), or a file of them');
  const isList = given.startsWith('eyJ'); // as every JWT does
  const path = given.startsWith('/') ? given : `${__ENV.PWD}/${given}`;
  const lines = isList ? given.split(',') : open(path).split('\n');
  return lines
    .map((line) => line.trim().split(/\s+/))
    .filter(([token]) => token)
    .map(([token, roomId], place) => ({ token, roomId: roomId || __ENV.ROOM || '', number: place }));
});

// Everyone's share of a VU: VU 1 of 10 talks for the first tenth.
export function shareOf(vu, vus) {
  return people.filter((_, place) => place % vus === (vu - 1) % vus);
}

// Tells this run's messages from all others.
export function runName() {
  return `k6-${Date.now().toString(36)}`;
}

// For setup(): what is the same for all VUs. `room` is where those talk whose line names no room.
export function common() {
  if (people.every((person) => person.roomId)) return { run: runName(), room: '' };
  const answer = http.get(`${HTTP}/api/rooms`, { headers: { Authorization: `Bearer ${people[0].token}` } });
  if (answer.status !== 200) throw new Error(`${HTTP}/api/rooms answered ${answer.status}: give -e HTTP=… or -e ROOM=…`);
  const rooms = answer.json('rooms');
  if (!rooms.length) throw new Error('There is no room: make one, or give -e ROOM=…');
  return { run: runName(), room: rooms[0].id };
}

// Every script has these: whatever was due has come, once, and nobody was refused or lost.
export function thresholds(usualP99Ms) {
  return {
    checks: ['rate==1'],
    deliveries: ['count>0'],
    undelivered: ['count==0'],
    repeats: ['count==0'],
    refusals: ['count==0'],
    losses: ['count==0'],
    delivery_ms: [`p(99)<${number('P99', usualP99Ms)}`],
  };
}

export const TREND_STATS = ['avg', 'p(50)', 'p(90)', 'p(99)', 'p(99.9)', 'max'];
