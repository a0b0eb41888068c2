// Reading in a browser: far back, what is new, and what others do meanwhile.
import assert from 'node:assert/strict';
import { create, join, profile, seqs, shown, until, visit, write } from './browser.mjs';
import { Door, assertWhole, client, fill, nodes, roomName, check } from './cluster.mjs';

check('a history of 2,000 messages scrolls, and the document stays small', async () => {
  const { n1 } = await nodes();
  const room = roomName('long');
  await fill(n1, room, 2000);
  const page = await visit(await profile(), n1, { name: 'reader' });
  await join(page, room);
  // It was made, there were 2,000 messages, and the reader came.
  const last = 2002;
  await until(() => page.locator('#position').textContent(), 'n1 · № 2,002');
  const seen = new Set();
  const timeline = page.locator('#timeline');
  let rows = 0;
  for (let steps = 0; !seen.has(1); steps += 1) {
    assert.ok(steps < 400, `after ${steps} steps only ${seen.size} were seen`);
    const there = await timeline.evaluate((scroller) => {
      const { top, bottom } = scroller.getBoundingClientRect();
      const visible = [...scroller.querySelectorAll('.row')].filter((row) => {
        const box = row.getBoundingClientRect();
        return box.bottom > top && box.top < bottom;
      });
      scroller.scrollTop -= scroller.clientHeight - 100;
      return {
        seqs: visible.map((row) => Number(row.dataset.seq)),
        rows: scroller.querySelectorAll('.row').length,
      };
    });
    for (const seq of there.seqs) seen.add(seq);
    rows = Math.max(rows, there.rows);
    // A frame, in which the page draws what it has fetched.
    await page.evaluate(() => new Promise((resolve) => { requestAnimationFrame(resolve); }));
  }
  // Nothing was jumped over on the way up, and it was never all in the document.
  const all = Array.from({ length: last }, (_, place) => place + 1);
  const missed = all.filter((seq) => !seen.has(seq));
  assert.deepEqual(missed, []);
  assert.ok(rows <= 600, `${rows} rows`);
  await page.getByText(`The beginning of ${room}`).waitFor();
  assertWhole(await seqs(page));
  await page.getByRole('button', { name: /To the latest/ }).click();
  await until(async () => (await seqs(page)).at(-1)?.seq, last);
  await write(page, 'I have read it all.');
  await until(async () => (await shown(page)).at(-1), 'I have read it all.');
});

check('what is unread is the same on every device', async () => {
  const { n1, n2 } = await nodes();
  const room = roomName();
  const bob = client(n2, 'bob');
  await bob.create(room);
  const desk = await visit(await profile(), n1, { name: 'emmy' });
  await join(desk, room);
  await create(desk, roomName('elsewhere'));
  for (const text of ['one', 'two', 'three']) await bob.send(room, text);
  // A device that has never heard of the room.
  const phone = await visit(await profile({ width: 390, height: 844 }), n2, { name: 'emmy' });
  const badge = (page) => page.locator(`[data-room="${room}"] .badge`);
  for (const page of [desk, phone]) await until(() => badge(page).textContent(), '3');
  await phone.locator(`[data-room="${room}"]`).click();
  await until(() => shown(phone), ['one', 'two', 'three']);
  await badge(desk).waitFor({ state: 'detached' });
  // One's own message is not news, even if the page is gone before it could say so.
  await write(phone, 'four');
  await until(async () => (await shown(phone)).at(-1), 'four');
  await phone.goto(`http://${n2}/`);
  await phone.reload();
  await phone.locator(`[data-room="${room}"]`).waitFor();
  await badge(desk).waitFor({ state: 'detached' });
  await until(() => badge(phone).count(), 0);
});

check('somebody who reads further up is not pushed on', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  await fill(n1, room, 60);
  const bob = client(n1, 'bob');
  await bob.join(room);
  const dora = await visit(await profile(), n1, { name: 'dora' });
  await join(dora, room);
  await until(async () => (await shown(dora)).length, 60);
  const timeline = dora.locator('#timeline');
  await timeline.evaluate((scroller) => { scroller.scrollTop = 300; });
  await until(() => dora.getByRole('button', { name: 'To the latest ↓' }).count(), 1);
  const top = await timeline.evaluate((scroller) => scroller.scrollTop);
  await bob.send(room, 'news');
  await bob.send(room, 'more news');
  await dora.getByRole('button', { name: '2 new messages ↓' }).waitFor();
  assert.equal(await timeline.evaluate((scroller) => scroller.scrollTop), top);
  await dora.keyboard.press('Escape');
  await until(() => dora.locator('#latest').isHidden(), true);
  await until(() => dora.locator('.badge').count(), 0);
});

check('a window that is full does not move under its reader', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  await fill(n1, room, 700);
  const bob = client(n1, 'bob');
  await bob.join(room);
  const dora = await visit(await profile(), n1, { name: 'dora' });
  await join(dora, room);
  const timeline = dora.locator('#timeline');
  for (let rows = 0; rows < 600;) {
    await timeline.evaluate((scroller) => { scroller.scrollTop = 0; });
    const before = rows;
    await until(async () => (await seqs(dora)).length > before, true);
    rows = (await seqs(dora)).length;
  }
  const window = await seqs(dora);
  for (const text of ['one', 'two', 'three']) await bob.send(room, text);
  const latest = dora.getByRole('button', { name: '3 new messages ↓' });
  await latest.waitFor();
  assert.deepEqual(await seqs(dora), window);
  await latest.click();
  await until(async () => (await shown(dora)).slice(-3), ['one', 'two', 'three']);
  assertWhole(await seqs(dora));
});

check('a long message is shown in full, and nothing takes its reader away', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const bob = client(n1, 'bob');
  await bob.create(room);
  await bob.send(room, Array.from({ length: 120 }, (_, place) => `line ${place}`).join('\n'));
  const dora = await visit(await profile(), n1, { name: 'dora' });
  await join(dora, room);
  await dora.getByRole('button', { name: /Show all/ }).click();
  const timeline = dora.locator('#timeline');
  const top = await timeline.evaluate((scroller) => scroller.scrollTop);
  // Who works with the keyboard is still there, too.
  await until(() => dora.evaluate(() => document.activeElement.className), 'text');
  await bob.send(room, 'news');
  await dora.getByRole('button', { name: '1 new message ↓' }).waitFor();
  assert.equal(await timeline.evaluate((scroller) => scroller.scrollTop), top);
});

/** Where the line "New" is, and what stands behind it. */
async function news(page) {
  return page.evaluate(() => {
    const line = document.querySelector('.divider.new');
    if (!line) return null;
    const { top } = document.getElementById('timeline').getBoundingClientRect();
    const isInSight = line.getBoundingClientRect().top >= top;
    return [isInSight, line.nextElementSibling.querySelector('.text').textContent];
  });
}

check('a room opens where its unread begin, however many they are', async () => {
  const { n1 } = await nodes();
  const [near, far, busy, crowd] = ['near', 'far', 'busy', 'crowd'].map(roomName);
  const all = [near, far, busy, crowd];
  const bob = client(n1, 'bob');
  for (const name of all) {
    await bob.create(name);
    await bob.send(name, 'known');
  }
  const dora = await visit(await profile(), n1, { name: 'dora' });
  for (const name of all) {
    await join(dora, name);
    await until(() => shown(dora), ['known']);
  }
  await create(dora, roomName('elsewhere'));
  const badge = (name) => dora.locator(`[data-room="${name}"] .badge`);
  // More than a screen, and more than the page keeps of a room that is not open.
  const sizes = { [near]: 60, [far]: 250, [busy]: 70, [crowd]: 70 };
  // There are more who come before the first message than are in a page; or nearly as many, which
  // makes a page that is no screen.
  const guests = (name, size) => Array.from({ length: size }, (_, place) => (
    fetch(`http://${n1}/api/rooms/${name}/members/guest-${place}`, { method: 'PUT' })));
  await Promise.all([...guests(busy, 150), ...guests(crowd, 95)]);
  for (const [name, size] of Object.entries(sizes)) {
    await Promise.all(Array.from({ length: size }, (_, place) => bob.send(name, `new ${place}`)));
    await until(() => badge(name).textContent(), size > 99 ? '99+' : String(size));
  }
  for (const [name, size] of Object.entries(sizes)) {
    await dora.locator(`[data-room="${name}"]`).click();
    await until(() => news(dora), [true, 'new 0']);
    // It is not read by that, nor does the line go away when something comes.
    await dora.getByRole('button', { name: `${size} new messages ↓` }).waitFor();
    await bob.send(name, 'and one more');
    await dora.getByRole('button', { name: `${size + 1} new messages ↓` }).waitFor();
    assert.deepEqual(await news(dora), [true, 'new 0']);
    assertWhole(await seqs(dora));
    await dora.getByRole('button', { name: /new messages ↓/ }).click();
    await until(async () => (await shown(dora)).at(-1), 'and one more');
    await until(() => badge(name).count(), 0);
  }
});

check('what is new is marked after a reload, and after a break that nobody watched', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const door = await Door.to(n1);
  const bob = client(n1, 'bob');
  await bob.create(room);
  const dora = await visit(await profile(), door.address, { name: 'dora' });
  await join(dora, room);
  await bob.send(room, 'seen');
  await until(() => shown(dora), ['seen']);
  await until(() => dora.locator('#latest').isHidden(), true);
  // Time to say that it was read: what has been said by then is not new.
  const read = new Promise((resolve) => { bob.on('read', resolve); });
  await bob.join(room);
  await read;
  const blur = () => dora.evaluate(() => {
    document.hasFocus = () => false;
    dispatchEvent(new Event('blur'));
  });
  await blur();
  door.shut();
  await until(() => dora.locator('#status-text').textContent(), 'Offline');
  await bob.send(room, 'missed');
  door.unlock();
  await until(() => shown(dora), ['seen', 'missed']);
  await until(() => news(dora), [true, 'missed']);
  // The page is loaded again before anybody has looked.
  await dora.reload();
  await until(() => shown(dora), ['seen', 'missed']);
  await until(() => news(dora), [true, 'missed']);
});

check('to the latest is to the latest, also while something else is fetched', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  await fill(n1, room, 1500);
  const door = await Door.to(n1, { delay_ms: 100 });
  const dora = await visit(await profile(), door.address, { name: 'dora' });
  await join(dora, room);
  const toTheTop = () => dora.locator('#timeline').evaluate((scroller) => {
    // Who has said that they want to be elsewhere does not turn back.
    if (!window.asked?.length) scroller.scrollTop = 0;
  });
  // So far up that the end is out of the window, with more to come above.
  await until(async () => (await toTheTop(), (await seqs(dora)).at(-1).seq < 1502), true);
  await dora.evaluate(() => {
    window.asked = [];
    const { send } = WebSocket.prototype;
    WebSocket.prototype.send = function note(text) {
      send.call(this, text);
      if (!text.includes('"history"')) return;
      window.asked.push(JSON.parse(text));
      // The wish comes when a page of older ones is on its way.
      if (window.asked.length === 1) document.getElementById('latest').click();
    };
  });
  await until(async () => (await toTheTop(), dora.evaluate(() => window.asked.length > 0)), true);
  await until(async () => (await seqs(dora)).at(-1).seq, 1502);
  await until(() => dora.locator('#latest').isHidden(), true);
  assert.equal((await dora.evaluate(() => window.asked)).length, 2);
});
