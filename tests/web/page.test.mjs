// The page in a browser: what people do with it.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { create, enter, join, profile, shown, until, visit, write } from './browser.mjs';
import { client, nodes, roomName, check } from './cluster.mjs';

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
  await until(() => ann.locator('.badge').count(), 0);
});

check('text is shown as it was typed, whatever it is', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const hostile = [
    '<script>document.title = "owned"</script>',
    '<img src=x onerror="document.title = \'owned\'"><b>bold</b>&amp;',
    'javascript:alert(1) https://example.org/?a=1&b=2 [link](https://example.org)',
    'See HTTP://EXAMPLE.org/a_(b), (https://example.org/\u202egro.elpmaxe) https://bücher.example!',
    'https://bank.example@evil.example/ http://[ http:// ftp://x.example data:text/html,x //x.org',
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
  await until(() => cleo.title(), `${room} · Verbatim`);
  assert.equal(await cleo.locator('#events :is(script, img, b)').count(), 0);
  // Addresses of the web become links, and nothing else does. What is seen is where they lead.
  const links = await cleo.locator('#events a').evaluateAll((all) => (
    all.map(({ textContent, href, rel, target }) => [textContent, href, rel, target])));
  const away = ['noopener noreferrer', '_blank'];
  assert.deepEqual(links, [
    ['https://example.org/?a=1&b=2', 'https://example.org/?a=1&b=2', ...away],
    ['https://example.org', 'https://example.org/', ...away],
    ['HTTP://EXAMPLE.org/a_(b)', 'http://example.org/a_(b)', ...away],
    ['https://example.org/', 'https://example.org/', ...away],
    ['https://bücher.example', 'https://xn--bcher-kva.example/', ...away],
  ]);
  // Nothing sticks out of a narrow screen, and what overrides direction stays in its own line.
  const timeline = cleo.locator('#timeline');
  assert.equal(await timeline.evaluate((it) => it.scrollWidth - it.clientWidth), 0);
  const bidi = await cleo.locator('#events .text').evaluateAll((all) => (
    all.map((text) => getComputedStyle(text).unicodeBidi)));
  assert.deepEqual(new Set(bidi), new Set(['plaintext']));
  // The long ones are cut until asked for.
  await cleo.getByRole('button', { name: 'Show all 16,384 characters' }).click();
  await until(() => cleo.locator('.text.cut').count(), 1);

  // And the same the other way: what is typed is what is sent.
  for (const text of hostile.slice(0, 9)) {
    await cleo.locator('#message').fill(text);
    await cleo.getByRole('button', { name: 'Send' }).click();
  }
  await until(() => shown(cleo), [...hostile, ...hostile.slice(0, 9)]);
  await cleo.locator('#message').fill('é'.repeat(8193));
  await cleo.getByRole('button', { name: 'Send' }).click();
  await cleo.getByText('This is longer than one message can be (16,384 bytes).').waitFor();
  assert.equal((await cleo.locator('#message').inputValue()).length, 8193);
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
  await until(() => page.getByLabel('Your name', { exact: true }).inputValue(), 'ada');
  await enter(page, 'grace');
  await until(() => page.locator('#me-name').textContent(), 'grace');
});

check('Enter that ends a word of an input method sends nothing', async () => {
  const { n1 } = await nodes();
  const page = await visit(await profile(), n1, { name: 'ada' });
  await create(page, roomName());
  const field = page.locator('#message');
  await field.fill('こんにちは');
  // Chromium says that a word is being composed; Safari has just said that it is not any more.
  for (const how of [{ isComposing: true }, { keyCode: 229 }]) {
    await field.dispatchEvent('keydown', { key: 'Enter', ...how });
    assert.equal(await field.inputValue(), 'こんにちは');
  }
  await field.press('Enter');
  await until(() => shown(page), ['こんにちは']);
  // On glass the key makes a new line, and says nothing else.
  assert.equal(await field.getAttribute('enterkeyhint'), null);
});
