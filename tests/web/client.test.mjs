// The client in Node: what it promises on a connection that stands.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { before } from 'node:test';
import { connect, newId } from '../../web/verbatim.js';
import {
  assertWhole, client, isOpen, next, nodes, roomName, storage, tampered, texts, told,
  within, check,
} from './cluster.mjs';

let n1;
let n2;
before(async () => ({ n1, n2 } = await nodes()));

check('a room is made, joined, talked in and left', async () => {
  const room = roomName();
  const ada = client(n1, 'ada');
  assert.equal((await ada.create(room)).seq, 1);
  const joined = await ada.join(room, { since: 0 });
  assert.equal(joined.members, 1);
  assert.equal(await ada.send(room, 'Hello World!'), 2);
  // Its `ack` and its event may come in either order.
  await told(ada, room, 2);
  const [created, message] = ada.events;
  assert.deepEqual([created.type, created.user_id, created.seq], ['create', 'ada', 1]);
  assert.deepEqual([message.type, message.message, message.seq], ['message', 'Hello World!', 2]);
  const left = next(ada, 'left');
  assert.equal((await ada.leave(room)).seq, 3);
  assert.deepEqual(await left, { room });
  assert.deepEqual({ ...ada.positions() }, {});
  const page = await ada.rooms({ limit: 1000 });
  assert.deepEqual(page.rooms.find((found) => found.room === room)?.members, 0);
});

check('those on other nodes are told the same, in the same order', async () => {
  const room = roomName();
  const [ada, bob] = [client(n1, 'ada'), client(n2, 'bob')];
  await ada.create(room);
  await Promise.all([ada.join(room), bob.join(room)]);
  const sent = Array.from({ length: 40 }, (_, place) => `${place}`);
  const say = (text, place) => (place % 2 ? ada : bob).send(room, text);
  const seqs = await Promise.all(sent.map(say));
  const last = Math.max(...seqs);
  await Promise.all([told(ada, room, last), told(bob, room, last)]);
  assertWhole(ada.events);
  assertWhole(bob.events);
  assert.deepEqual(texts(ada.events), texts(bob.events));
  // And each one's own stand in the order of the calls.
  const evens = texts(ada.events).filter((text) => text % 2 === 0);
  assert.deepEqual(evens, sent.filter((text) => text % 2 === 0));
  const { members } = await bob.members(room);
  const roles = members.map(({ user_id, role }) => [user_id, role]);
  assert.deepEqual(roles, [['ada', 'owner'], ['bob', 'member']]);
});

check('an integer is a name, and a name is normalized', async () => {
  const one = client(n1, 1);
  const room = roomName();
  await one.create(room);
  await one.join(room, { since: 0 });
  await told(one, room, await one.send(room, 'I'));
  assert.deepEqual(one.events.map(({ user_id }) => user_id), ['1', '1']);
  assert.equal(client(n1, 'Jose\u0301').user, 'Jos\u00e9');
});

check('a name that the server refuses ends it, and says which field it was', async () => {
  const chat = client(n1, 'ada\u202e');
  const { error } = await next(chat, 'state', ({ state }) => state === 'closed');
  assert.deepEqual([error.code, error.field], ['bad_request', 'user_id']);
  await assert.rejects(chat.send('anywhere', 'hello'), { code: 'closed' });
  await assert.rejects(chat.rooms(), { code: 'closed' });
});

check('a refused message rejects, and those behind it go on', async () => {
  const [room, other] = [roomName(), roomName()];
  const [ada, bob] = [client(n1, 'ada'), client(n1, 'bob')];
  await ada.create(room);
  await bob.create(other);
  const refused = next(ada, 'refused');
  await assert.rejects(ada.send(other, 'let me in'), { code: 'not_member', room: other });
  assert.equal((await refused).message, 'let me in');
  await assert.rejects(ada.send('no-such-room', 'x'), { code: 'room_not_found' });
  // One that the server refuses, and one that it would close the connection for.
  for (const length of [16 * 1024 + 1, 70_000]) {
    const tooLong = { code: 'too_large', limit: 16384 };
    await assert.rejects(ada.send(room, 'x'.repeat(length)), tooLong);
  }
  assert.equal(await ada.send(room, 'fine'), 2);
  await assert.rejects(ada.create(room), { code: 'room_exists' });
  await assert.rejects(ada.history(other), { code: 'not_member' });
  assert.deepEqual(ada.waiting(), []);
  assert.equal(ada.state, 'open');
});

check('the same id is one message', async () => {
  const room = roomName();
  const ada = client(n1, 'ada');
  await ada.create(room);
  const id = newId();
  const sent = next(ada, 'sent', ({ duplicate }) => duplicate);
  const twice = [ada.send(room, 'once', { id }), ada.send(room, 'once', { id })];
  assert.deepEqual(await Promise.all(twice), [2, 2]);
  assert.equal(await ada.send(room, 'once', { id }), 2);
  assert.equal((await sent).seq, 2);
});

check('an id that cannot be is refused at once, and is in nobody\'s way', async () => {
  const room = roomName();
  const kept = storage();
  // What another program left there is not taken for a message.
  const prefix = `verbatim:${JSON.stringify(['ada', `ws://${n1}/ws`])}:`;
  const message = { room, message: 'x', at: 1, order: 1 };
  const wrong = { [`${'x'.repeat(65)}`]: message, 'é': message, a: { room }, b: null, c: 1 };
  for (const [id, value] of Object.entries(wrong)) {
    kept.setItem(prefix + id, JSON.stringify(value));
  }
  const ada = client(n1, 'ada', { storage: kept });
  assert.deepEqual(ada.waiting(), []);
  await ada.create(room);
  const refusal = { code: 'bad_request', field: 'id' };
  for (const id of ['', 'é', 'line\n', 'x'.repeat(65), 7]) {
    await assert.rejects(ada.send(room, 'lost?', { id }), refusal);
  }
  // Nor does the promise of one message hold for another.
  const first = ada.send(room, 'one', { id: 'same' });
  await assert.rejects(ada.send(room, 'two', { id: 'same' }), refusal);
  assert.equal(await first, 2);
  assert.equal(await within('the next one', ada.send(room, 'three', { id: ' ~'.repeat(32) })), 3);
});

check('a message with the id of another command is refused, and never thought stored', async () => {
  const room = roomName();
  const made = await fetch(`http://${n1}/api/rooms`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': 'c1' },
    body: JSON.stringify({ user_id: 'ada', room }),
  });
  assert.equal(made.status, 201);
  const refusal = { code: 'id_reused', room };
  await assert.rejects(client(n1, 'ada').send(room, 'lost?', { id: 'c1' }), refusal);
  // The event of that command has the id, too, and comes while the message waits.
  const into = (frame) => (frame.code === 'id_reused' ? [] : [frame]);
  const ada = client(n1, 'ada', { WebSocket: tampered({ into }) });
  const sent = ada.send(room, 'lost?', { id: 'c1' });
  await ada.join(room, { since: 0 });
  await told(ada, room, 1);
  assert.deepEqual(ada.waiting().map(({ id }) => id), ['c1']);
  ada.close();
  await assert.rejects(sent, { code: 'closed' });
});

check('a hole is mended and a repetition is dropped', async () => {
  const room = roomName();
  const talker = client(n1, 'talker');
  await talker.create(room);
  let events = 0;
  let isCalm = false;
  const into = (frame) => {
    if (frame.type !== 'message' || isCalm) return [frame];
    events += 1;
    if (events % 5 === 0) return [];
    return events % 3 === 0 ? [frame, frame] : [frame];
  };
  const listener = client(n2, 'listener', { WebSocket: tampered({ into }) });
  await listener.join(room);
  for (let number = 1; number <= 30; number += 1) await talker.send(room, `${number}`);
  // The last ones are not lost, so that the others are missed: also if they come among replays.
  isCalm = true;
  await talker.send(room, 'end');
  const last = await talker.send(room, 'very end');
  await within('the whole room', told(listener, room, last));
  assertWhole(listener.events);
  assert.equal(texts(listener.events).length, 32);
});

check('unavailable is not the end of a message, and costs no order', async () => {
  const room = roomName();
  let refusals = 3;
  const refuse = (frame, socket) => {
    if (frame.type !== 'message' || refusals === 0) return [frame];
    refusals -= 1;
    const { id } = frame;
    const error = { type: 'error', code: 'unavailable', error: 'away', re: 'message', room, id };
    setImmediate(() => socket.emit('message', Buffer.from(JSON.stringify(error)), false));
    // The second time it was written all the same: that is what the code means.
    return refusals === 1 ? [frame] : [];
  };
  const ada = client(n1, 'ada', { WebSocket: tampered({ out: refuse }) });
  await ada.create(room);
  await ada.join(room);
  const seqs = await Promise.all(['1', '2', '3'].map((text) => ada.send(room, text)));
  await told(ada, room, 4);
  assert.deepEqual(seqs, [2, 3, 4]);
  assert.deepEqual(texts(ada.events), ['1', '2', '3']);
  assert.equal(refusals, 0);
});

check('an old leave in a replay does not end following; a new one anywhere does', async () => {
  const room = roomName();
  const ada = client(n1, 'ada');
  await ada.create(room);
  await ada.leave(room);
  await ada.join(room, { since: 0 });
  await told(ada, room, await ada.send(room, 'still here'));
  assert.deepEqual(ada.events.map(({ type }) => type), ['create', 'leave', 'join', 'message']);
  const left = next(ada, 'left');
  const elsewhere = client(n2, 'ada');
  await elsewhere.leave(room);
  assert.deepEqual(await left, { room });
});

check('a position above the log is reset', async () => {
  const room = roomName();
  const ada = client(n1, 'ada');
  await ada.create(room);
  const reset = next(ada, 'reset');
  ada.resume({ [room]: 1000 });
  assert.deepEqual(await reset, { room, last_seq: 1 });
  await ada.send(room, 'after');
  await told(ada, room, 2);
  assert.deepEqual({ ...ada.positions() }, { [room]: 2 });
});

check('resume of a room that one is not in says so', async () => {
  const room = roomName();
  const [ada, bob] = [client(n1, 'ada'), client(n1, 'bob')];
  await ada.create(room);
  await isOpen(bob);
  const left = next(bob, 'left');
  bob.resume({ [room]: 0 });
  const { error } = await left;
  assert.equal(error.code, 'not_member');
  assert.deepEqual({ ...bob.positions() }, {});
});

check('a room that cannot be resumed is no end for the others', async () => {
  const room = roomName();
  const impossible = 'no\u200broom';
  const ada = client(n1, 'ada');
  await ada.create(room);
  const left = next(ada, 'left');
  ada.resume({ [impossible]: 0, [room]: 0 });
  const refused = await left;
  assert.deepEqual([refused.room, refused.error.code], [impossible, 'bad_request']);
  await told(ada, room, 1);
  assert.equal(await ada.send(room, 'still here'), 2);
  assert.equal(ada.state, 'open');
});

check('what goes wrong in the server while resuming passes', async () => {
  const room = roomName();
  const bob = client(n1, 'bob');
  await bob.create(room);
  let failures = 3;
  const fail = (frame, socket) => {
    if (frame.type !== 'resume' || failures === 0) return [frame];
    failures -= 1;
    const error = { type: 'error', code: 'internal', error: 'oh', re: 'resume', id: frame.id };
    setImmediate(() => socket.emit('message', Buffer.from(JSON.stringify(error)), false));
    return [];
  };
  const chat = client(n2, 'bob', { WebSocket: tampered({ out: fail }) });
  chat.resume({ [room]: 0 });
  await isOpen(chat);
  await told(chat, room, 1);
  assert.equal(failures, 0);
});

check('history goes either way, page by page', async () => {
  const room = roomName();
  const ada = client(n1, 'ada');
  await ada.create(room);
  await Promise.all(Array.from({ length: 9 }, (_, place) => ada.send(room, `${place}`)));
  const newest = await ada.history(room, { limit: 4 });
  assert.deepEqual([newest.first, newest.last, newest.more], [7, 10, true]);
  const older = await ada.history(room, { before: newest.first, limit: 200 });
  assert.deepEqual([older.first, older.last, older.more], [1, 6, false]);
  assertWhole((await ada.history(room, { after: 5 })).events);
});

check('a listener that fails costs nobody an event, and is not hidden', async () => {
  const room = roomName();
  const ada = client(n1, 'ada');
  const listeners = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  const thrown = new Promise((resolve) => { process.once('uncaughtException', resolve); });
  ada.on('event', () => { throw new Error('of the application'); });
  const heard = [];
  ada.on('event', (event) => heard.push(event.seq));
  await ada.create(room);
  await ada.join(room, { since: 0 });
  assert.equal((await within('the error', thrown)).message, 'of the application');
  for (const listener of listeners) process.on('uncaughtException', listener);
  assert.deepEqual(heard, [1]);
});

check('who begins to listen is told from then on, and who closes is told no more', async () => {
  const room = roomName();
  const talker = client(n1, 'talker');
  await talker.create(room);
  for (let number = 1; number <= 5; number += 1) await talker.send(room, `${number}`);
  // All but the last are lost on the way, and mended.
  const into = (frame) => (frame.type === 'message' && frame.message !== '5' ? [] : [frame]);
  const chat = client(n2, 'listener', { WebSocket: tampered({ into }) });
  await isOpen(chat);
  let late = 0;
  const stop = chat.on('joined', () => {
    stop();
    chat.on('joined', () => { late += 1; });
  });
  chat.on('event', ({ message }) => message === '2' && chat.close());
  const closed = next(chat, 'state', ({ state }) => state === 'closed');
  await chat.join(room, { since: 0 });
  await closed;
  await new Promise((resolve) => { setImmediate(resolve); });
  assert.deepEqual(texts(chat.events), ['1', '2']);
  assert.equal(late, 0);
});

check('one who types the next message is told of at once', async () => {
  const room = roomName();
  const told = [];
  const out = (frame) => {
    if (frame.type === 'typing') told.push(frame.room);
    return [frame];
  };
  const [ada, bob] = [client(n1, 'ada', { WebSocket: tampered({ out }) }), client(n1, 'bob')];
  await ada.create(room);
  await Promise.all([ada.join(room), bob.join(room)]);
  for (const message of ['one', 'two', 'three']) {
    const heard = next(bob, 'typing', ({ user_id }) => user_id === 'ada');
    for (let key = 0; key < 5; key += 1) await ada.typing(room);
    await heard;
    await ada.send(room, message);
  }
  assert.equal(told.length, 3);
});

check('signals that a server does not know are asked for once', async () => {
  let asked = 0;
  const out = (frame) => {
    if (!['who', 'typing', 'read'].includes(frame.type)) return [frame];
    asked += 1;
    return [{ ...frame, type: 'unheard-of' }];
  };
  const chat = client(n1, 'ada', { WebSocket: tampered({ out }) });
  await isOpen(chat);
  assert.equal(await chat.who('general'), undefined);
  assert.equal(await chat.who('general'), undefined);
  await chat.typing('general');
  await chat.typing('general');
  await chat.read('general', 1);
  assert.equal(asked, 3);
  assert.equal(chat.state, 'open');
});

check('there must be a WebSocket, and the one of Node will do', async () => {
  assert.throws(() => connect('ws://127.0.0.1:1/ws', { user: 'x', WebSocket: null }), TypeError);
  if (!globalThis.WebSocket) return;
  const chat = client(n1, 'ada', { WebSocket: globalThis.WebSocket });
  await isOpen(chat);
  assert.equal(chat.node, 'n1');
});

check('the types name what the client has', async () => {
  const types = readFileSync(new URL('../../web/verbatim.d.ts', import.meta.url), 'utf8');
  const declared = (name) => {
    const [, body] = new RegExp(`interface ${name} \\{\\n([\\s\\S]*?)\\n\\}`).exec(types);
    return [...body.matchAll(/^ {2}(?:readonly )?(\w+)[(<:?]/gm)].map(([, word]) => word).sort();
  };
  const chat = client(n1, 'ada');
  const methods = Object.getOwnPropertyNames(Object.getPrototypeOf(chat));
  const fields = Object.keys(chat).filter((name) => name !== 'events');
  const there = [...methods, ...fields].filter((name) => name !== 'constructor').sort();
  assert.deepEqual(declared('Chat'), there);
  const source = ['verbatim.js', 'verbatim/outbox.js'].map((name) => (
    readFileSync(new URL(`../../web/${name}`, import.meta.url), 'utf8'))).join('\n');
  const emitted = [...source.matchAll(/#emit\('(\w+)'/g)].map(([, word]) => word);
  const signs = ['who', 'presence', 'typing', 'read'];
  assert.deepEqual(declared('Events'), [...new Set([...emitted, ...signs])].sort());
});

check('the types need no types of a browser, for Node has none', () => {
  const types = readFileSync(new URL('../../web/verbatim.d.ts', import.meta.url), 'utf8');
  const code = types.replace(/\/\*[\s\S]*?\*\//g, '');
  const own = [...code.matchAll(/(?:interface|type|class) (\w+)/g)].map(([, word]) => word);
  const ofLanguage = ['Error', 'Events', 'Promise', 'Record', 'T'];
  // A type stands behind one of these, and so begins with a capital.
  const used = [...code.matchAll(/[:|<=(&] ?([A-Z]\w*)/g)].map(([, word]) => word);
  assert.ok(used.length > 20);
  assert.deepEqual(used.filter((word) => ![...own, ...ofLanguage].includes(word)), []);
  assert.match(code, /class ChatError extends Error \{\s+constructor\(frame: /);
});
