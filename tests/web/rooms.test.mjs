// Rooms in a browser: found, made, joined and left.
import assert from 'node:assert/strict';
import {
  create, enter, join, pending, profile, shown, until, visit, write,
} from './browser.mjs';
import { client, nodes, roomName, check } from './cluster.mjs';

check('names that cannot be are refused in words for a person', async () => {
  const { n1 } = await nodes();
  const page = await visit(await profile(), n1);
  await page.getByRole('button', { name: 'Start talking' }).click();
  await page.getByText('Please type the name under which you want to speak.').waitFor();
  const field = page.getByLabel('Your name', { exact: true });
  for (const [name, words] of [
    ['ada\u202eb', 'The name must not contain the character U+202E'],
    ['a\u200bb', 'The name must not contain the character U+200B'],
    ['n'.repeat(129), 'The name is longer than 128 bytes.'],
  ]) {
    await field.fill(name);
    await page.keyboard.press('Enter');
    // Two say the same, so that it is there is no answer yet.
    await page.locator('#welcome-form:not([inert])').waitFor();
    await page.getByText(words).waitFor();
    await until(() => field.getAttribute('aria-invalid'), 'true');
  }
  await enter(page, 'ada');
  for (const [name, words] of [
    ['ro\u202eom', "The room's name must not contain the character U+202E"],
    ['ro\u00a0om', "The room's name contains U+00A0, which looks like a space: use U+0020."],
    ['room\ufe0f', "The room's name contains U+FE0F, which is invisible."],
  ]) {
    await page.getByLabel('Find or create a room').fill(name);
    await page.getByRole('button', { name: /Create/ }).click();
    await page.getByText(words).waitFor();
  }
});

check('a name that looks like another comes into no room, and the page says why', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  await client(n1, 'bob').create(room);
  const page = await visit(await profile(), n1, { name: 'bob\ufe0f' });
  await page.getByLabel('Find or create a room').fill(room);
  await page.locator(`[data-room="${room}"]`).click();
  await page.getByRole('button', { name: 'Join this room' }).click();
  await page.getByText('The name contains U+FE0F, which is invisible.').waitFor();
});

check('a click is heard, whatever is drawn between the press and the release', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const ada = await visit(await profile(), n1, { name: 'ada' });
  const search = ada.getByLabel('Find or create a room');
  await search.fill(room);
  await ada.getByRole('button', { name: `Create “${room}”` }).hover();
  await ada.mouse.down();
  await search.dispatchEvent('input');
  await ada.evaluate(() => new Promise((resolve) => {
    requestAnimationFrame(() => requestAnimationFrame(resolve));
  }));
  await ada.mouse.up();
  await ada.getByRole('log', { name: `Messages in ${room}` }).waitFor();
});

check('a room is left and joined again', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const bob = client(n1, 'bob');
  await bob.create(room);
  await bob.send(room, 'welcome');
  const ada = await visit(await profile(), n1, { name: 'ada' });
  await join(ada, room);
  await until(() => shown(ada), ['welcome']);
  await ada.getByRole('button', { name: 'Leave' }).click();
  await ada.getByRole('dialog', { name: `Leave ${room}?` }).waitFor();
  await ada.getByRole('button', { name: 'Stay' }).click();
  await ada.getByRole('button', { name: 'Leave' }).click();
  await ada.getByRole('dialog').getByRole('button', { name: 'Leave' }).click();
  await ada.getByRole('button', { name: 'Join this room' }).waitFor();
  await bob.send(room, 'while you were out');
  await ada.getByRole('button', { name: 'Join this room' }).click();
  await until(() => shown(ada), ['welcome', 'while you were out']);
  const facts = await ada.locator('.fact').allTextContents();
  assert.deepEqual(facts.map((fact) => fact.replace(/ \d.*/, '')), [
    'bob made this room', 'ada joined', 'ada left', 'ada joined',
  ]);
  // A member is told when the room was left somewhere else.
  const elsewhere = client(n1, 'ada');
  await elsewhere.leave(room);
  await ada.getByRole('button', { name: 'Join this room' }).waitFor();
});

check('rooms are found among many', async () => {
  const { n1 } = await nodes();
  const maker = client(n1, 'maker');
  const names = Array.from({ length: 300 }, (_, place) => `many-${String(place).padStart(3, '0')}`);
  await Promise.all(names.map((name) => maker.create(name)));
  const page = await visit(await profile(), n1, { name: 'seeker' });
  await page.getByText(/and \d+ more: search/).waitFor();
  await page.getByLabel('Find or create a room').fill('MANY-29');
  const found = page.locator('.room-item');
  await until(() => found.locator('bdi').allTextContents(), names.slice(290));
  assert.equal(await page.locator('.room-item.news').count(), 0);
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'many-291' }).waitFor();
  await until(() => page.locator('#outside-facts').textContent(), '1 member · 1 entry');
  // The search is over, and the room is in the address, so the way back is the browser's own.
  await until(() => page.getByLabel('Find or create a room').inputValue(), '');
  assert.equal(new URL(page.url()).hash, '#/many-291');
  await page.goBack();
  await page.getByRole('heading', { name: 'Choose a room' }).waitFor();
});

check('it is the room that was asked about which is left', async () => {
  const { n1 } = await nodes();
  const [one, two] = [roomName(), roomName()];
  const ada = await visit(await profile(), n1, { name: 'ada' });
  await create(ada, one);
  await create(ada, two);
  const ask = async () => {
    await ada.getByRole('button', { name: 'Leave' }).click();
    await ada.getByRole('dialog', { name: `Leave ${two}?` }).waitFor();
  };
  // While it is asked, the keys lead nowhere else; and who goes elsewhere is not asked any more.
  await ask();
  for (const key of ['Alt+ArrowUp', 'Control+k', '?']) await ada.keyboard.press(key);
  assert.equal(await ada.locator('#room-name').textContent(), two);
  await ada.goBack();
  await ada.getByRole('heading', { name: one }).waitFor();
  await until(() => ada.getByRole('dialog').count(), 0);
  await ada.goForward();
  await ada.getByRole('heading', { name: two }).waitFor();
  await ask();
  await ada.evaluate((name) => document.querySelector(`[data-room="${name}"]`).click(), one);
  await ada.getByRole('heading', { name: one }).waitFor();
  await ada.evaluate(() => document.getElementById('leave-yes').click());
  await until(() => client(n1, 'ada').rooms({ limit: 1000 }).then(({ rooms }) => (
    rooms.filter(({ room }) => [one, two].includes(room)).map(({ members }) => members))), [1, 0]);
});

check('who joins with the keyboard can write at once', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  await client(n1, 'bob').create(room);
  const ada = await visit(await profile(), n1, { name: 'ada', room });
  await ada.getByRole('button', { name: 'Join this room' }).focus();
  await ada.keyboard.press('Enter');
  await until(() => ada.evaluate(() => document.activeElement.id), 'message');
});

check('a room that is clicked twice is asked for once', async () => {
  const { n1 } = await nodes();
  // It is the first in the list of somebody who is in no room.
  const room = roomName('0');
  await client(n1, 'bob').create(room);
  const novice = await visit(await profile(), n1, { name: 'novice' });
  await novice.evaluate(() => {
    [window.sent, window.held] = [[], []];
    const { send } = WebSocket.prototype;
    // The question leaves behind the second click: else its answer might come before that.
    WebSocket.prototype.send = function note(text) {
      const { type } = JSON.parse(text);
      window.sent.push(type);
      if (type === 'history') window.held.push(() => send.call(this, text));
      else send.call(this, text);
    };
  });
  await novice.locator(`[data-room="${room}"]`).dblclick();
  await novice.evaluate(() => window.held.forEach((go) => go()));
  await novice.getByRole('button', { name: 'Join this room' }).waitFor();
  const sent = await novice.evaluate(() => window.sent.filter((type) => type !== 'ping'));
  assert.deepEqual(sent, ['history']);
});

check('Enter in the search goes to the room of that name, and nowhere without one', async () => {
  const { n1 } = await nodes();
  const name = roomName('exact');
  const ada = await visit(await profile(), n1, { name: 'ada' });
  await create(ada, `a-${name}`);
  await client(n1, 'bob').create(name);
  const search = ada.getByLabel('Find or create a room');
  await search.fill('');
  await search.press('Enter');
  assert.equal(await ada.locator('#room-name').textContent(), `a-${name}`);
  await search.fill(name);
  await ada.locator(`[data-room="${name}"]`).waitFor();
  await search.press('Enter');
  await ada.locator('#outside').getByRole('heading', { name }).waitFor();
});

check('on a telephone the way back does not grow longer', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const ada = await visit(await profile({ width: 390, height: 844 }), n1, { name: 'ada' });
  await create(ada, room);
  const back = ada.getByRole('button', { name: 'Back to the rooms' });
  const length = await ada.evaluate(() => history.length);
  for (let times = 0; times < 3; times += 1) {
    await back.click();
    await ada.locator(`[data-room="${room}"]`).click();
    await ada.getByRole('log', { name: `Messages in ${room}` }).waitFor();
  }
  assert.equal(await ada.evaluate(() => history.length), length);
  // Who came by an address has no list behind them, and gets there all the same.
  const guest = await visit(ada.context(), n1, { room });
  await guest.getByRole('log', { name: `Messages in ${room}` }).waitFor();
  await guest.getByRole('button', { name: 'Back to the rooms' }).click();
  await guest.locator(`[data-room="${room}"]`).waitFor();
  await until(() => new URL(guest.url()).hash, '');
});

check('a room may have the name of a part of the page', async () => {
  const { n1 } = await nodes();
  const maker = client(n1, 'maker');
  // More than fit, so that there would be somewhere to scroll to.
  const names = Array.from({ length: 60 }, (_, place) => `filler-${place}`);
  await Promise.all([...names, 'help', 'message'].map((name) => maker.create(name)));
  const page = await visit(await profile(), n1, { name: 'ada' });
  for (const name of ['help', 'message']) {
    await join(page, name);
    await write(page, 'Is this the right place?');
    await until(async () => (await shown(page)).at(-1), 'Is this the right place?');
  }
  const heights = () => page.evaluate(() => {
    const { scrollTop, scrollHeight, clientHeight } = document.documentElement;
    return [scrollTop, document.body.scrollTop, scrollHeight - clientHeight];
  });
  assert.deepEqual(await heights(), [0, 0, 0]);
  // An address of the older form leads to the room, too, and nowhere else.
  await page.goto(`http://${n1}/#help`);
  await page.getByRole('heading', { name: 'help' }).waitFor();
  await until(() => new URL(page.url()).hash, '#/help');
  assert.deepEqual(await heights(), [0, 0, 0]);
});

check('a room may have the name of a part of every object', async () => {
  const { n1, n2 } = await nodes();
  const names = ['constructor', 'toString', '__proto__'];
  const bob = client(n2, 'bob');
  for (const name of names) await bob.create(name);
  const context = await profile();
  const ada = await visit(context, n1, { name: 'ada' });
  for (const name of names) await join(ada, name);
  // In none of them is the page there when something is said: it is counted all the same.
  await create(ada, roomName('elsewhere'));
  for (const name of names) await bob.send(name, 'Did you get this?');
  for (const name of names) {
    await until(() => ada.locator(`[data-room="${name}"] .badge`).textContent(), '1');
  }
  // A new page follows them again, and is told what happens from then on.
  await ada.reload();
  for (const name of names) {
    const link = ada.locator(`[data-room="${name}"]`);
    await until(() => link.locator('.badge').textContent(), '1');
    await bob.send(name, 'And this?');
    await until(() => link.locator('.badge').textContent(), '2');
    await link.click();
    await until(() => shown(ada), ['Did you get this?', 'And this?']);
    await write(ada, 'Every word.');
    await until(() => pending(ada), []);
    await until(() => shown(ada), ['Did you get this?', 'And this?', 'Every word.']);
  }
});

check('of thousands of rooms one finds those that one is in, and any other', async () => {
  const { n1 } = await nodes();
  const maker = client(n1, 'maker');
  const name = (place) => `zz-${String(place).padStart(4, '0')}`;
  for (let from = 0; from < 2400; from += 800) {
    const some = Array.from({ length: 800 }, (_, place) => maker.create(name(from + place)));
    await Promise.all(some);
  }
  // By their names they are the very last.
  const [own, other] = ['🙂 own', '🙂 other'];
  await maker.create(own);
  await maker.create(other);
  await client(n1, 'ada').join(own);
  const ada = await visit(await profile(), n1, { name: 'ada' });
  await ada.locator(`[data-room="${own}"]`).waitFor();
  const search = ada.getByLabel('Find or create a room');
  for (const [text, found] of [['🙂', other], ['🙂 other', other], ['zz-2399', 'zz-2399']]) {
    await search.fill(text);
    await ada.locator(`[data-room="${found}"]`).waitFor();
  }
  await search.press('Enter');
  await ada.getByRole('heading', { name: 'zz-2399' }).waitFor();
});
