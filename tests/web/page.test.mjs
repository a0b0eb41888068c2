// The page in a browser: what people do with it, on nodes that live and die.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import {
  create, enter, join, pending, profile, shown, until, visit, write,
} from './browser.mjs';
import {
  Door, assertWhole, client, fill, kill, logOf, nodes, roomName, start, texts, told,
  check,
} from './cluster.mjs';

/** The seqs of the rows in the document. */
function seqs(page) {
  return page.locator('#events').evaluate((events) => (
    [...events.children].map((row) => ({ seq: Number(row.dataset.seq) }))));
}

check('two people on two nodes talk', async () => {
  const { n1, n2 } = await nodes();
  const [room, other] = [roomName('hall'), roomName('attic')];
  const ann = await visit(await profile(), n1, { name: 'ann' });
  await create(ann, room);
  await write(ann, 'Is anybody there?');
  const ben = await visit(await profile(), n2, { name: 'ben' });
  await join(ben, room);
  await until(() => shown(ben), ['Is anybody there?']);
  await write(ben, 'I am.');
  const said = ['Is anybody there?', 'I am.'];
  await Promise.all([until(() => shown(ann), said), until(() => shown(ben), said)]);
  await until(() => ann.locator('#room-facts').textContent(), '2 members · 2 online');
  await until(() => ann.locator('#status-text').textContent(), 'Connected to n1');
  await until(() => ben.locator('#status-text').textContent(), 'Connected to n2');
  // It was made, there was a message, ben came, and there was another.
  await until(() => ben.locator('#position').textContent(), 'n2 · № 4');

  // What is said in a room that is not open is counted, and is read by opening it.
  await create(ann, other);
  await write(ben, 'One');
  await write(ben, 'Two');
  const link = ann.locator(`[data-room="${room}"]`);
  await until(() => link.locator('.badge').textContent(), '2');
  await until(() => ann.title(), `(2) ${other} · Verbatim`);
  await link.click();
  await until(() => shown(ann), [...said, 'One', 'Two']);
  assert.equal(await ann.locator('.divider.new').textContent(), 'New');
  await link.locator('.badge').waitFor({ state: 'detached' });
  await until(() => ann.title(), `${room} · Verbatim`);
  // It stays read in the next page of the same person, which begins where this one was.
  await ann.reload();
  await until(() => shown(ann), [...said, 'One', 'Two']);
  assert.equal(await ann.locator('.badge').count(), 0);
});

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
  assert.equal(await ada.locator('#pending .note').first().textContent(), 'Waiting to be sent');
  await ada.getByText('You are offline.').waitFor();
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

check('text is shown as it was typed, whatever it is', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const hostile = [
    '<script>document.title = "owned"</script>',
    '<img src=x onerror="document.title = \'owned\'"><b>bold</b>&amp;',
    'javascript:alert(1) https://example.org/?a=1&b=2 [link](https://example.org)',
    '\u202egnp.exe\u202c \u2066isolated\u2069 \u200bzero\u200b',
    'שלום, and then English',
    '👩‍👩‍👧‍👦 👍🏽 🇺🇳 e\u0301 ẹ̶̛ ﷽',
    '  two spaces   three\n\n\ttab\nlast line ',
    'x'.repeat(16 * 1024),
    `${'wide 漢字 '.repeat(1000)}end`,
    '\u0001\u0007\u001b[31m',
  ];
  const bob = client(n1, 'bob');
  await bob.create(room);
  for (const text of hostile) await bob.send(room, text);
  const cleo = await visit(await profile({ width: 390, height: 844 }), n1, { name: 'cleo' });
  await join(cleo, room);
  await until(() => shown(cleo), hostile);
  assert.equal(await cleo.title(), `${room} · Verbatim`);
  assert.equal(await cleo.locator('#events :is(script, img, b, a)').count(), 0);
  // Nothing sticks out of a narrow screen, and what overrides direction stays in its own line.
  const timeline = cleo.locator('#timeline');
  assert.equal(await timeline.evaluate((it) => it.scrollWidth - it.clientWidth), 0);
  const bidi = await cleo.locator('#events .text').evaluateAll((all) => (
    all.map((text) => getComputedStyle(text).unicodeBidi)));
  assert.deepEqual(new Set(bidi), new Set(['plaintext']));
  // The long ones are cut until asked for.
  await cleo.getByRole('button', { name: 'Show all 16,384 characters' }).click();
  assert.equal(await cleo.locator('.text.cut').count(), 1);

  // And the same the other way: what is typed is what is sent.
  for (const text of hostile.slice(0, 7)) {
    await cleo.locator('#message').fill(text);
    await cleo.getByRole('button', { name: 'Send' }).click();
  }
  await until(() => shown(cleo), [...hostile, ...hostile.slice(0, 7)]);
  await cleo.locator('#message').fill('é'.repeat(8193));
  await cleo.getByRole('button', { name: 'Send' }).click();
  await cleo.getByText('This is longer than one message can be (16,384 bytes).').waitFor();
  assert.equal((await cleo.locator('#message').inputValue()).length, 8193);
});

check('names that cannot be are refused in words for a person', async () => {
  const { n1 } = await nodes();
  const page = await visit(await profile(), n1);
  await page.getByRole('button', { name: 'Start talking' }).click();
  await page.getByText('Please type the name under which you want to speak.').waitFor();
  const field = page.getByLabel('Your name', { exact: true });
  for (const [name, words] of [
    ['ada\u202eb', 'The name holds characters that nobody can see.'],
    ['a\u200bb', 'The name holds characters that nobody can see.'],
    ['n'.repeat(129), 'The name is too long.'],
  ]) {
    await field.fill(name);
    await page.keyboard.press('Enter');
    await page.getByText(words).waitFor();
    assert.equal(await field.getAttribute('aria-invalid'), 'true');
  }
  await enter(page, 'ada');
  await page.getByLabel('Find or create a room').fill('ro\u202eom');
  await page.getByRole('button', { name: /Create/ }).click();
  await page.getByText("The room's name holds characters that nobody can see.").waitFor();
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
  await ada.getByText('Not sent. You are not in this room. Join it first.').waitFor();
  await ada.getByRole('button', { name: 'Try again' }).click();
  await until(() => shown(ada), ['too late']);
  await until(() => pending(ada), []);
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
  assert.equal(await page.locator('#outside-facts').textContent(), '1 member · 1 entry');
  // The search is over, and the room is in the address, so the way back is the browser's own.
  assert.equal(await page.getByLabel('Find or create a room').inputValue(), '');
  assert.equal(new URL(page.url()).hash, '#many-291');
  await page.goBack();
  await page.getByRole('heading', { name: 'Choose a room' }).waitFor();
});

check('the page asks nobody but its own server, and keeps what it may keep', async () => {
  const { n1 } = await nodes();
  const page = await visit(await profile(), n1);
  const asked = [];
  page.on('request', (request) => asked.push(new URL(request.url()).host));
  await page.reload();
  await enter(page, 'ada');
  assert.deepEqual(new Set(asked), new Set([n1]));
  const html = readFileSync(new URL('../../web/index.html', import.meta.url), 'utf8');
  assert.doesNotMatch(html, /\s(style|on\w+)=|<script>|<style/);
  // Another name is another page.
  await page.getByRole('button', { name: 'Change your name' }).click();
  await enter(page, 'grace');
  assert.equal(await page.locator('#me-name').textContent(), 'grace');
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

check('who is there and who is typing is shown', async () => {
  const { n1, n3 } = await nodes();
  const room = roomName();
  const ada = await visit(await profile(), n1, { name: 'ada' });
  await create(ada, room);
  const bob = client(n3, 'bob');
  await bob.join(room);
  const facts = ada.locator('#room-facts');
  await until(() => facts.textContent(), '2 members · 2 online');
  await until(() => ada.locator('.people h3').allTextContents(), ['Online · 2']);
  const typing = ada.locator('#typing');
  await bob.typing(room);
  await until(() => typing.textContent(), 'bob is typing…');
  // The message that was being typed ends it at once.
  await bob.send(room, 'there');
  await until(() => typing.textContent(), '');
  const told = new Promise((resolve) => { bob.on('typing', resolve); });
  await ada.locator('#message').pressSequentially('hello');
  assert.deepEqual((await told).user_id, 'ada');
  bob.close();
  await until(() => facts.textContent(), '2 members · 1 online');
  return until(() => ada.locator('.people h3').allTextContents(), ['Online · 1', 'Away']);
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
  assert.equal(await badge(phone).count(), 0);
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
  assert.equal(await dora.locator('.badge').count(), 0);
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
