// A client of chatd for k6: connects, authenticates, makes requests, and counts by the room's numbers what it is told.
// Used by every script of this folder that talks over WebSocket.
//
// A room numbers its durable events 1, 2, 3, … (seq). So each client knows for itself what it should have heard: all
// from the number at which it came to the number at which it stopped counting, each once and in order.

import { check } from 'k6';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';
import { WebSocket } from 'k6/experimental/websockets';
import { URL } from './settings.js';

const TIMEOUT_MS = 20000;
const COME_BACK_MS = 50;
const MARKER = '~T~'; // before the time at which a message was due
const DURABLE = new Set([
  'new_message', 'new_dm', 'message_edited', 'message_deleted', 'reaction_added', 'reaction_removed',
  'message_pinned', 'message_unpinned', 'user_joined', 'user_left', 'room_updated', 'member_updated',
]);
const EPHEMERAL = new Set([
  'messages_read', 'messages_delivered', 'user_typing', 'user_stopped_typing', 'user_online', 'user_offline',
  'user_status', 'notification', 'unread_dms',
]);

let messages = 0; // of this VU, over all its clients and visits

export const metrics = {
  expected: new Counter('expected'), // deliveries that were due
  deliveries: new Counter('deliveries'), // those that came, each counted once
  undelivered: new Counter('undelivered'),
  repeats: new Counter('repeats'),
  refusals: new Counter('refusals'),
  losses: new Counter('losses'), // connections that the server ended, or that could not be made
  sent: new Counter('messages_sent'),
  acknowledged: new Counter('messages_acknowledged'),
  ephemeral: new Counter('ephemeral_events'),
  connected: new Trend('connect_ms', true), // from connecting to `authenticated`
  ack: new Trend('ack_ms', true),
  delivery: new Trend('delivery_ms', true), // from when the message was due
  caughtUp: new Trend('caught_up_ms', true), // from losing the connection to `caught_up`
};

// Milliseconds of this run, with fractions, the same for all VUs of this k6.
export function now() {
  return exec.instance.currentTestRunDuration;
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
}

export class Client {
  // `person`: {token, roomId?} of settings.js. What setup() gave: `run` tells this run's messages from others, `room` is
  // the one of those who name none.
  constructor(person, { run, room }) {
    this.person = person;
    this.run = run;
    this.roomId = person.roomId || room;
    this.seq = null; // the last number heard of the room; null: it does not count
    this.startSeq = null;
    this.waiting = new Map();
    this.requests = 0;
    this.epoch = null;
    this.isClosing = false;
    this.comesBack = false; // whether a lost connection is made again
  }

  // Connects and authenticates, and joins its room if it is no member; false: it could not.
  async open(resume = null) {
    const began = now();
    this.socket = new WebSocket(URL);
    const closed = new Promise((resolve) => {
      this.socket.onclose = () => {
        resolve(null);
        this.onClosed();
      };
    });
    this.socket.onerror = () => {}; // onclose follows
    this.socket.onmessage = (event) => this.onMessage(JSON.parse(event.data));
    this.socket.onopen = () => this.put({ type: 'authenticate', token: this.person.token, ...(resume && { resume }) });
    const said = await this.within(Promise.race([this.replyTo('authenticated'), closed]), 'authenticated');
    if (!said) return false;
    metrics.connected.add(now() - began);
    this.epoch = said.epoch;
    if (resume) return true;
    const room = said.rooms.find((each) => each.roomId === this.roomId);
    if (!room) return (await this.join()) !== null;
    this.count(room.lastSeq);
    return true;
  }

  // From here on every number of the room is due.
  count(seq) {
    this.seq = seq;
    this.startSeq = seq;
  }

  put(message) {
    this.socket.send(JSON.stringify(message));
  }

  replyTo(key) {
    return new Promise((resolve) => this.waiting.set(key, resolve));
  }

  async within(promise, what) {
    let timer;
    const late = new Promise((resolve) => {
      timer = setTimeout(() => resolve(undefined), TIMEOUT_MS);
    });
    const found = await Promise.race([promise, late]);
    clearTimeout(timer);
    if (found === undefined) console.error(`no ${what} within ${TIMEOUT_MS} ms`);
    return found || null;
  }

  // The reply to a request; null: it was refused, or none came. The reply to join_room has no bare `ok`.
  async request(message) {
    const id = `r${++this.requests}`;
    const reply = this.replyTo(id);
    this.put({ id, ...message });
    const said = await this.within(reply, `reply to ${message.type}`);
    check(said, { [`${message.type} was answered`]: (answer) => answer !== null && answer.type !== 'error' });
    return said && said.type !== 'error' ? said : null;
  }

  // Sends a message that was due at `due`; its ack, or null.
  async say(text, due = now()) {
    metrics.sent.add(1);
    const clientMessageId = `${this.run}-${exec.vu.idInTest}-${++messages}`;
    const content = `${MARKER}${due.toFixed(3)} ${this.run} ${text}`;
    const ack = await this.request({ type: 'send_message', roomId: this.roomId, content, clientMessageId });
    if (ack) {
      metrics.acknowledged.add(1);
      metrics.ack.add(now() - due);
    }
    return ack;
  }

  async join() {
    const history = await this.request({ type: 'join_room', roomId: this.roomId });
    if (history) this.count(history.seq);
    return history;
  }

  // Waits for all that is in the room by now, and holds what came against what was due.
  async settle() {
    const page = await this.request({ type: 'get_history', roomId: this.roomId, limit: 1 });
    if (!page || this.seq === null) return;
    const until = now() + TIMEOUT_MS;
    while (this.seq < page.seq && now() < until) await sleep(20);
    const expected = page.seq - this.startSeq;
    const missing = Math.max(0, page.seq - this.seq);
    metrics.expected.add(expected);
    metrics.undelivered.add(missing);
    check(this, { 'every delivery came, once and in order': () => missing === 0 && !this.faults });
    this.startSeq = Math.max(this.startSeq, page.seq);
  }

  // Leaves the room; what happens there from now on is not due.
  async leave() {
    this.seq = null;
    return this.request({ type: 'leave_room', roomId: this.roomId });
  }

  close() {
    this.isClosing = true;
    this.comesBack = false;
    this.socket.close();
  }

  // Cuts the connection as a network does that comes back: this end closes, and resumes.
  drop() {
    this.socket.close();
  }

  async onClosed() {
    for (const resolve of this.waiting.values()) resolve(null);
    this.waiting.clear();
    if (this.isClosing) return;
    if (!this.comesBack) {
      metrics.losses.add(1);
      return;
    }
    if (this.isComingBack) return; // one of the tries below
    this.isComingBack = true;
    const lost = now();
    let caughtUp = null;
    while (this.comesBack && !caughtUp) {
      await sleep(COME_BACK_MS * (1 + Math.random()));
      const heard = this.replyTo('caught_up');
      if (await this.open({ epoch: this.epoch, rooms: { [this.roomId]: this.seq } })) {
        caughtUp = await this.within(heard, 'caught_up');
      }
    }
    this.isComingBack = false;
    if (caughtUp) metrics.caughtUp.add(now() - lost);
  }

  onMessage(message) {
    const type = message.type;
    if (DURABLE.has(type)) this.onEvent(message);
    else if (EPHEMERAL.has(type)) metrics.ephemeral.add(1);
    if (type === 'error' || type === 'auth_error') {
      metrics.refusals.add(1);
      console.error(`refused: ${message.code} ${message.message}`);
    }
    // What has an id answers a request; of the rest, these are waited for by name.
    const key = message.id !== undefined ? message.id : type;
    const resolve = this.waiting.get(key) || (type === 'auth_error' && this.waiting.get('authenticated'));
    if (resolve) {
      this.waiting.delete(key);
      resolve(type === 'auth_error' ? null : message);
    }
  }

  onEvent(event) {
    const { roomId, seq } = event.message && event.message.seq ? event.message : event;
    if (roomId !== this.roomId || this.seq === null) return;
    if (seq <= this.seq) {
      metrics.repeats.add(1);
      this.faults = true;
      return;
    }
    if (seq > this.seq + 1) {
      metrics.undelivered.add(seq - this.seq - 1);
      this.faults = true;
    }
    this.seq = seq;
    metrics.deliveries.add(1);
    if (event.type === 'new_message') this.time(event.message.content);
  }

  time(content) {
    if (!content.startsWith(MARKER)) return;
    const [due, run] = content.slice(MARKER.length).split(' ');
    if (run === this.run) metrics.delivery.add(now() - Number(due));
  }
}

// Connects one after the other; those that could not are lost.
export async function openAll(people, common) {
  const clients = [];
  for (const person of people) {
    const client = new Client(person, common);
    if (await client.open()) clients.push(client);
    else metrics.losses.add(1);
  }
  return clients;
}
