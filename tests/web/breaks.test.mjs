// The client in Node: what it promises when connections break and nodes die.
import assert from 'node:assert/strict';
import WebSocket from 'ws';
import {
  Door, assertWhole, client, isOpen, kill, logOf, next, nodes, roomName, start, stop, storage,
  tampered, texts, told, check,
} from './cluster.mjs';

check('a node is killed under talkers: every word is told once and in order', async () => {
  const { n2, n3 } = await nodes();
  const room = roomName();
  const door = await Door.to(n2);
  const [ada, bob] = [client(door.address, 'ada'), client(n3, 'bob')];
  await ada.create(room);
  await Promise.all([ada.join(room, { since: 0 }), bob.join(room, { since: 0 })]);
  const seqs = [];
  const words = (name, count) => Array.from({ length: count }, (_, place) => `${name} ${place}`);
  const say = (chat) => words(chat.user, 60).map(async (text) => {
    seqs.push(await chat.send(room, text));
  });
  const said = [...say(ada), ...say(bob)];
  await next(ada, 'event', ({ message }) => message === 'ada 10');
  door.leadTo(n3);
  await kill('n2');
  await Promise.all(said);
  assert.equal(new Set(seqs).size, 120);
  const last = Math.max(...seqs);
  await Promise.all([told(ada, room, last), told(bob, room, last)]);
  for (const chat of [ada, bob]) {
    assertWhole(chat.events);
    for (const name of ['ada', 'bob']) {
      const own = texts(chat.events).filter((text) => text.startsWith(name));
      assert.deepEqual(own, words(name, 60), `as ${chat.user} was told`);
    }
  }
  assert.equal(ada.node, 'n3');
  await start('n2');
});

check('goodbye is honoured: the client comes back after the pause that it was told', async () => {
  const { n1, n2 } = await nodes();
  const room = roomName();
  const door = await Door.to(n2);
  // Its own pause would be far longer.
  const ada = client(door.address, 'ada', { backoff_ms: [60_000, 60_000] });
  await ada.create(room);
  await ada.join(room);
  const waiting = next(ada, 'state', ({ state }) => state === 'waiting');
  const again = next(ada, 'state', ({ state }) => state === 'open');
  door.leadTo(n1);
  await stop('n2');
  const { code, retry_ms } = await waiting;
  assert.equal(code, 1012);
  assert.ok(retry_ms >= 200 && retry_ms <= 400, `${retry_ms} ms`);
  await again;
  assert.equal(ada.node, 'n1');
  assert.equal(await ada.send(room, 'here again'), 2);
  await start('n2');
});

check('what is sent offline waits, even without its page, and goes out once', async () => {
  const { n1, n3 } = await nodes();
  const room = roomName();
  const door = await Door.to(n1);
  const kept = storage();
  const first = client(door.address, 'ada', { storage: kept });
  const bob = client(n3, 'bob');
  await first.create(room);
  await bob.join(room);
  door.shut();
  await next(first, 'state', ({ state }) => state === 'waiting');
  const send = (text) => assert.rejects(first.send(room, text), { code: 'closed' });
  const sent = ['1', '2', '3'].map(send);
  assert.deepEqual(first.waiting().map(({ message }) => message), ['1', '2', '3']);
  first.close();
  await Promise.all(sent);
  door.unlock();
  // Two pages with one storage both send it; the ids make it one message each.
  const pages = [1, 2].map(() => client(door.address, 'ada', { storage: kept }));
  assert.deepEqual(pages[1].waiting().map(({ message }) => message), ['1', '2', '3']);
  const done = pages.map((page) => next(page, 'sent', () => page.waiting().length === 0));
  await Promise.all([...done, ...pages.map((page) => isOpen(page))]);
  const end = await pages[0].send(room, 'end');
  await told(bob, room, end);
  assert.deepEqual(texts(bob.events), ['1', '2', '3', 'end']);
  assert.equal(kept.length, 0);
});

check('what a page leaves behind is sent by another that is open', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const [doorA, doorB] = [await Door.to(n1), await Door.to(n1)];
  const kept = storage();
  const by = (door) => class extends WebSocket {
    constructor() { super(`ws://${door.address}/ws`); }
  };
  const page = (door) => client('one.address.for.all.nodes', 'ada', {
    storage: kept, WebSocket: by(door),
  });
  const [a, b] = [page(doorA), page(doorB)];
  await b.create(room);
  await b.join(room);
  await isOpen(a);
  doorA.shut();
  await next(a, 'state', ({ state }) => state === 'waiting');
  a.send(room, 'written by a').catch(() => {});
  a.close();
  assert.deepEqual(b.waiting(), []);
  // The connection of the other ends as well, for a moment.
  doorB.shut();
  await next(b, 'state', ({ state }) => state === 'waiting');
  const all = next(b, 'sent', () => b.waiting().length === 0);
  const own = b.send(room, 'written by b');
  doorB.unlock();
  await told(b, room, Math.max((await all).seq, await own));
  assert.deepEqual(texts(b.events).sort(), ['written by a', 'written by b']);
  assert.equal(kept.length, 0);
});

check('a storage that fails costs no message, and the application is told', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const fail = () => { throw new Error('full'); };
  const full = () => Object.assign(storage(), { setItem: fail, removeItem: fail });
  const closed = { get length() { return fail(); }, key: fail, getItem: fail };
  Object.assign(closed, { setItem: fail, removeItem: fail });
  const storages = [undefined, full(), closed];
  const door = await Door.to(n1);
  const chats = storages.map((kept) => client(door.address, 'ada', { storage: kept }));
  const [first] = chats;
  await first.create(room);
  door.shut();
  await next(first, 'state', ({ state }) => state === 'waiting');
  const sent = chats.map((chat, place) => chat.send(room, `${place}`));
  for (const chat of chats) assert.deepEqual(chat.waiting().map(({ kept }) => kept), [false]);
  door.unlock();
  assert.deepEqual((await Promise.all(sent)).sort(), [2, 3, 4]);
  const well = client(n1, 'ada', { storage: storage() });
  const saved = well.send(room, 'kept');
  assert.deepEqual(well.waiting().map(({ kept }) => kept), [true]);
  await saved;
});

check('another user of the same storage has an outbox of their own', async () => {
  const { n1 } = await nodes();
  const kept = storage();
  const door = await Door.to(n1);
  door.shut();
  const ada = client(door.address, 'ada', { storage: kept });
  ada.send('room', 'mine').catch(() => {});
  // A name made so that its keys would begin like those of ada.
  const url = `ws://${door.address}/ws`;
  for (const user of ['bob', `ada","${url}"]:`, 'ada"']) {
    assert.deepEqual(client(door.address, user, { storage: kept }).waiting(), [], user);
  }
  assert.equal(client(door.address, 'ada', { storage: kept }).waiting().length, 1);
});

check('a connection that has died without a word is given up', async () => {
  const { n1, n3 } = await nodes();
  const room = roomName();
  const door = await Door.to(n1);
  const [ada, bob] = [client(door.address, 'ada'), client(n3, 'bob')];
  await ada.create(room);
  await ada.join(room);
  await bob.join(room);
  const waiting = next(ada, 'state', ({ state }) => state === 'waiting');
  door.swallow();
  const lost = ada.send(room, 'into the dark');
  await bob.send(room, 'are you there?');
  await waiting;
  const last = await lost;
  await Promise.all([told(ada, room, last), told(bob, room, last)]);
  assertWhole(ada.events);
  const wanted = ['are you there?', 'into the dark'];
  assert.deepEqual(texts(ada.events).sort(), wanted);
  assert.deepEqual(texts(await logOf(n3, room, 'bob')).sort(), wanted);
});

check('wake() does not wait for the pause to be over', async () => {
  const { n1 } = await nodes();
  const door = await Door.to(n1);
  const ada = client(door.address, 'ada', { backoff_ms: [1e9, 1e9] });
  await isOpen(ada);
  door.shut();
  await next(ada, 'state', ({ state }) => state === 'waiting');
  door.unlock();
  ada.wake();
  await isOpen(ada);
  // And on a connection that stands it does no harm.
  ada.wake();
  assert.equal((await ada.rooms({ limit: 1 })).type, 'rooms');
});

check('questions that were open when the connection broke are asked again', async () => {
  const { n1 } = await nodes();
  const door = await Door.to(n1);
  const room = roomName();
  const ada = client(door.address, 'ada');
  await isOpen(ada);
  door.swallow();
  const created = ada.create(room);
  const rooms = ada.rooms({ limit: 1 });
  assert.equal((await created).seq, 1);
  assert.equal((await rooms).type, 'rooms');
});

check('a room that was joined a moment before the break loses nothing', async () => {
  const { n1, n3 } = await nodes();
  const room = roomName();
  const door = await Door.to(n1);
  const [ada, bob] = [client(door.address, 'ada'), client(n3, 'bob')];
  await bob.create(room);
  await ada.join(room, { last: 0 });
  door.shut();
  const last = await bob.send(room, 'while you were away');
  door.unlock();
  await told(ada, room, last);
  assertWhole(ada.events);
  assert.deepEqual(texts(ada.events), ['while you were away']);
});

check('a dead connection is noticed by who sends, and by who looks', async () => {
  const { n1, n3 } = await nodes();
  const room = roomName();
  const door = await Door.to(n1);
  // By itself it would be noticed after two minutes.
  const into = (frame) => [frame.type === 'hello' ? { ...frame, heartbeat_ms: 60_000 } : frame];
  const chats = ['ada', 'bob'].map((user) => (
    client(door.address, user, { WebSocket: tampered({ into }) })));
  const [ada, bob] = chats;
  await ada.create(room);
  await isOpen(bob);
  door.leadTo(n3);
  door.swallow();
  const waiting = chats.map((chat) => next(chat, 'state', ({ state }) => state === 'waiting'));
  const sent = ada.send(room, 'is anybody there?');
  // However often one looks, the first look counts.
  const look = setInterval(() => bob.wake(), 1000);
  await Promise.all(waiting).finally(() => clearInterval(look));
  assert.equal(await sent, 2);
});
