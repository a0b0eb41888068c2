// The page in a browser when the server is away, dies or refuses, and when nothing can be kept.
import assert from 'node:assert/strict';
import { create, join, pending, profile, seqs, shown, until, visit, write } from './browser.mjs';
import {
  Door, assertWhole, client, kill, logOf, nodes, roomName, start, texts, told, check,
} from './cluster.mjs';

check('a node dies under an open page: nothing is missing and nothing twice', async () => {
  const { n1, n2 } = await nodes();
  const room = roomName();
  const door = await Door.to(n2);
  const bob = client(n1, 'bob');
  await bob.create(room);
  const ada = await visit(await profile(), door.address, { name: 'ada' });
  await join(ada, room);
  for (let number = 0; number < 20; number += 1) {
    if (number === 7) {
      door.leadTo(n1);
      await kill('n2');
    }
    if (number % 4 === 0) await write(ada, `ada ${number}`);
    await bob.send(room, `bob ${number}`);
  }
  await until(() => pending(ada), []);
  await bob.send(room, 'end');
  const log = await logOf(n1, room, 'bob');
  assert.equal(texts(log).at(-1), 'end');
  await until(() => shown(ada), texts(log));
  assertWhole(await seqs(ada));
  assert.equal(texts(log).filter((text) => text.startsWith('ada')).length, 5);
  await until(() => ada.locator('#status-text').textContent(), 'Connected to n1');
  await start('n2');
});

check('what is written offline waits, outlives the page, and goes out once', async () => {
  const { n1, n3 } = await nodes();
  const room = roomName();
  const door = await Door.to(n1);
  const bob = client(n3, 'bob');
  await bob.create(room);
  await bob.join(room);
  const context = await profile();
  const ada = await visit(context, door.address, { name: 'ada' });
  await join(ada, room);
  door.shut();
  await until(() => ada.locator('#status-text').textContent(), 'Offline');
  await write(ada, 'in the tunnel');
  await write(ada, 'still dark');
  await until(() => pending(ada), ['in the tunnel', 'still dark']);
  const note = ada.locator('#pending .note').first();
  await until(() => note.textContent(), 'Waiting to be sent');
  await ada.getByText('The server cannot be reached.').waitFor();
  await ada.close();
  door.unlock();
  const again = await visit(context, door.address, { room });
  await until(() => shown(again), ['in the tunnel', 'still dark']);
  await until(() => pending(again), []);
  await write(again, 'light');
  await until(() => shown(again), ['in the tunnel', 'still dark', 'light']);
  await told(bob, room, Math.max(...(await seqs(again)).map(({ seq }) => seq)));
  assert.deepEqual(texts(bob.events), ['in the tunnel', 'still dark', 'light']);
});

check('a message that the server refuses stays where its writer sees it', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const door = await Door.to(n1);
  const bob = client(n1, 'bob');
  await bob.create(room);
  const ada = await visit(await profile(), door.address, { name: 'ada' });
  await join(ada, room);
  door.shut();
  await until(() => ada.locator('#status-text').textContent(), 'Offline');
  await write(ada, 'too late');
  await client(n1, 'ada').leave(room);
  door.unlock();
  await ada.getByRole('button', { name: 'Join this room' }).click();
  const refusal = ada.getByText('Not sent. You are not in this room. Join it first.');
  await refusal.waitFor();
  // It is its writer's, until they have decided about it.
  await ada.reload();
  await refusal.waitFor();
  await ada.getByRole('button', { name: 'Try again' }).click();
  await until(() => shown(ada), ['too late']);
  await until(() => pending(ada), []);
  await ada.reload();
  await until(() => shown(ada), ['too late']);
  assert.deepEqual(await pending(ada), []);
});

check('what is written when the chat is over is not lost, and can be discarded', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const context = await profile();
  let end;
  await context.routeWebSocket(/\/ws$/, (socket) => {
    socket.connectToServer();
    end = () => socket.close({ code: 1008, reason: 'too many refused frames' });
  });
  const ada = await visit(context, n1, { name: 'ada' });
  await create(ada, room);
  await end();
  await until(() => ada.locator('#status-text').textContent(), 'Disconnected');
  await write(ada, 'into the void');
  await write(ada, 'and more');
  const refusals = ada.getByText('Not sent. The connection was closed.');
  await until(() => refusals.count(), 2);
  await ada.reload();
  await until(() => refusals.count(), 2);
  await ada.getByRole('button', { name: 'Discard' }).first().click();
  await until(() => refusals.count(), 1);
  await ada.getByRole('button', { name: 'Try again' }).click();
  await until(() => shown(ada), ['and more']);
  await until(() => pending(ada), []);
});

check('a storage that is full is said to be, and stops nothing else', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const door = await Door.to(n1);
  const context = await profile();
  await context.addInitScript(() => {
    Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };
  });
  const ada = await visit(context, door.address, { name: 'ada' });
  await create(ada, room);
  await write(ada, 'with a connection');
  await until(() => shown(ada), ['with a connection']);
  await ada.locator('#people-toggle').click();
  door.shut();
  await until(() => ada.locator('#status-text').textContent(), 'Offline');
  await write(ada, 'without');
  await ada.getByText('Waiting to be sent. It cannot be kept here').waitFor();
  door.unlock();
  await until(() => shown(ada), ['with a connection', 'without']);
});

check('a room that is opened without a connection says so, and is shown later', async () => {
  const { n1 } = await nodes();
  const [room, own] = [roomName('0-theirs'), roomName('own')];
  const door = await Door.to(n1);
  await client(n1, 'bob').create(room);
  const ada = await visit(await profile(), door.address, { name: 'ada' });
  const link = ada.locator(`[data-room="${room}"]`);
  await link.waitFor();
  // Meanwhile the user comes into it on another device.
  await client(n1, 'ada').create(own);
  door.shut();
  await until(() => ada.locator('#status-text').textContent(), 'Offline');
  await link.click();
  await ada.getByRole('heading', { name: room }).waitFor();
  await ada.getByText('The room is shown when there is a connection.').waitFor();
  assert.equal(await ada.getByRole('button', { name: 'Join this room' }).isVisible(), false);
  await ada.evaluate((name) => { location.hash = `#/${name}`; }, own);
  await ada.getByRole('heading', { name: own }).waitFor();
  door.unlock();
  await ada.getByRole('log', { name: `Messages in ${own}` }).waitFor();
  await link.click();
  await ada.getByRole('button', { name: 'Join this room' }).waitFor();
});

check('without a storage the page works as long as it is open', async () => {
  const { n1 } = await nodes();
  const context = await profile();
  await context.addInitScript(() => {
    Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no'); } });
  });
  const page = await visit(context, n1, { name: 'ada' });
  const room = roomName();
  await create(page, room);
  await write(page, 'kept by the server');
  await until(() => shown(page), ['kept by the server']);
});

check('the state of the connection is told as it is, wherever one looks', async () => {
  const { n1 } = await nodes();
  const door = await Door.to(n1);
  const context = await profile({ width: 390, height: 844 });
  const ada = await visit(context, door.address, { name: 'ada' });
  door.shut();
  // In the list, too, for there is nothing else to see on a telephone.
  const banner = ada.locator('#banner');
  await ada.getByText('The server cannot be reached.').waitFor();
  const pauses = new Set();
  await until(async () => {
    const pause = /Next try in (\d+) s\./.exec(await banner.textContent())?.[1];
    if (pause) pauses.add(Number(pause));
    return pauses.size >= 3;
  }, true);
  const retry = ada.getByRole('button', { name: 'Try now' });
  await context.setOffline(true);
  await ada.getByText('You are offline.').waitFor();
  await context.setOffline(false);
  await ada.getByText('The server cannot be reached.').waitFor();
  await retry.waitFor();
  // Who asks for it once more does not have to wait, and is not asked to ask meanwhile.
  await ada.evaluate(() => {
    window.states = new Set();
    const look = () => {
      const { state } = document.getElementById('status').dataset;
      window.states.add(`${state} ${!document.getElementById('retry').hidden}`);
      requestAnimationFrame(look);
    };
    look();
  });
  door.unlock();
  // At once: the page might come to it by itself, and there would be nothing left to click.
  await retry.dispatchEvent('click');
  await until(() => banner.isHidden(), true);
  const states = await ada.evaluate(() => [...window.states]);
  assert.deepEqual(states.filter((state) => state.endsWith('true')), ['waiting true']);
});

check('a page that finds no connection says so, and what may be the matter', async () => {
  const { n1 } = await nodes();
  const context = await profile();
  let isBlocked = true;
  await context.routeWebSocket(/\/ws$/, (socket) => {
    if (isBlocked) socket.close({ code: 4000 });
    else socket.connectToServer();
  });
  const ada = await visit(context, n1);
  await ada.getByLabel('Your name', { exact: true }).fill('ada');
  await ada.keyboard.press('Enter');
  await ada.getByText('does not let WebSockets through').waitFor();
  isBlocked = false;
  await ada.locator('#app').waitFor();
});
