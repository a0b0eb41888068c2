// The page as it is seen, heard and operated: by keyboard alone, by a screen reader, on narrow and
// on wide screens, by day and by night. What it looks like is kept as pictures (target/web).
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { before } from 'node:test';
import {
  create, enter, join, pending, picture, profile, seqs, shown, until, visit, write,
} from './browser.mjs';
import { Door, assertWhole, client, nodes, roomName, check } from './cluster.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const ROOM = 'general';

before(async () => {
  const { n1 } = await nodes();
  const chats = ['grace', 'linus', 'Åsa Öberg', 'margaret'].map((user) => client(n1, user));
  await chats[0].create(ROOM);
  for (const chat of chats) await chat.join(ROOM);
  const [grace, linus, asa, margaret] = chats;
  await grace.send(ROOM, 'Three nodes, one log.');
  await linus.send(ROOM, 'I pulled the plug on n2 while the load was running.');
  await linus.send(ROOM, 'Nobody noticed.');
  await asa.send(ROOM, 'Then let us do it again with Redis away 🙂');
  await margaret.send(ROOM, 'Done already:\n\n  redis-cli shutdown\n\nEverybody had every word.');
});

/** What axe finds wrong, each with where. */
async function faultsOf(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, {
    runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
    // On a telephone the rooms (with the heading) and the conversation (the main part) take turns.
    rules: Object.fromEntries(['landmark-one-main', 'page-has-heading-one'].map((rule) => (
      [rule, { enabled: innerWidth > 720 }]))),
  }));
  const places = (found) => found.map(({ target }) => target.join(' '));
  return violations.map(({ id, nodes: found }) => [id, places(found)]);
}

for (const [width, height] of [[390, 844], [1280, 800]]) {
  for (const scheme of ['light', 'dark']) {
    check(`nothing is wrong with it at ${width} px, ${scheme}`, async () => {
      const { n1 } = await nodes();
      const tag = `${width}-${scheme}`;
      const page = await visit(await profile({ width, height, scheme }), n1);
      // It is slow. Each width and each scheme once is all that there is to see.
      const faults = (width < 720) === (scheme === 'light') ? faultsOf : () => [];
      await page.locator('#welcome').waitFor();
      assert.deepEqual(await faults(page), []);
      await picture(page, `welcome-${tag}`);
      await page.getByLabel('Your name', { exact: true }).fill(`ada ${tag}`);
      await page.keyboard.press('Enter');
      await page.locator('[data-room="general"]').waitFor();
      assert.deepEqual(await faults(page), []);
      await picture(page, `rooms-${tag}`);
      await join(page, ROOM);
      await write(page, `I am here, at ${width} px.`);
      await until(async () => (await shown(page)).at(-1), `I am here, at ${width} px.`);
      assert.deepEqual(await faults(page), []);
      await picture(page, `room-${tag}`);
      if (width < 1100) {
        await page.getByRole('button', { name: 'People' }).click();
        await page.getByRole('complementary').getByText('grace').waitFor();
        await picture(page, `people-${tag}`);
        await page.keyboard.press('Escape');
      }
      await page.getByRole('button', { name: 'Leave' }).click();
      await page.getByRole('dialog').waitFor();
      assert.deepEqual(await faults(page), []);
      await picture(page, `leave-${tag}`);
      const widths = await page.evaluate(() => [document.body.scrollWidth, innerWidth]);
      assert.equal(widths[0], widths[1], 'it sticks out');
    });
  }
}

check('all of it can be done with the keyboard', async () => {
  const { n1 } = await nodes();
  const [one, two] = [roomName('kitchen'), roomName('larder')];
  const page = await visit(await profile(), n1);
  const keys = page.keyboard;
  const focused = () => page.evaluate(() => document.activeElement.id
    || document.activeElement.dataset.room || document.activeElement.textContent.trim());
  const fromTheTop = () => page.evaluate(() => {
    document.body.tabIndex = -1;
    document.body.focus();
    document.body.removeAttribute('tabindex');
  });
  await until(focused, 'name');
  await keys.type('ada');
  await keys.press('Enter');
  await page.locator('#app').waitFor();
  for (const room of [one, two]) {
    await keys.press('Control+k');
    await until(focused, 'search');
    await keys.type(room);
    await page.getByRole('button', { name: `Create “${room}”` }).waitFor();
    await keys.press('ArrowDown');
    await keys.press('Enter');
    await page.getByRole('log', { name: `Messages in ${room}` }).waitFor();
    await until(focused, 'message');
  }
  await keys.type('first');
  await keys.press('Shift+Enter');
  await keys.type('second');
  await keys.press('Enter');
  await until(() => shown(page), ['first\nsecond']);
  await keys.press('Alt+ArrowUp');
  await page.getByRole('heading', { name: one }).waitFor();
  await keys.press('Alt+ArrowDown');
  await page.getByRole('heading', { name: two }).waitFor();

  // Tab goes through the page in the order in which it is read, each stop in sight.
  await fromTheTop();
  const stops = [];
  for (let stop = 0; stop < 14; stop += 1) {
    await keys.press('Tab');
    stops.push(await focused());
    const isSeen = await page.evaluate(() => {
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
      return outlineStyle !== 'none' && parseFloat(outlineWidth) > 0;
    });
    assert.ok(isSeen, `the focus on ${stops.at(-1)} cannot be seen`);
    if (stops.at(-1) === 'send') break;
  }
  assert.deepEqual(stops, [
    'skip', 'search', two, 'help', 'rename',
    'people-toggle', 'leave', 'timeline', 'message', 'send',
  ]);
  await fromTheTop();
  await keys.press('Tab');
  await keys.press('Enter');
  await until(focused, 'message');

  // Esc closes what is open, and the focus goes back to where it was.
  await page.getByRole('button', { name: 'Leave' }).focus();
  await keys.press('Enter');
  await page.getByRole('dialog').waitFor();
  await keys.press('Escape');
  await until(() => page.getByRole('dialog').count(), 0);
  await until(focused, 'leave');
  await keys.press('?');
  await page.getByRole('dialog', { name: 'Keyboard' }).waitFor();
  await keys.press('Escape');
  await page.getByRole('button', { name: 'Leave' }).focus();
  await keys.press('Enter');
  await keys.press('Tab');
  await keys.press('Enter');
  await page.getByRole('button', { name: 'Join this room' }).waitFor();
});

check('a screen reader is told what is new, and by whom', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const page = await visit(await profile(), n1, { name: 'ada' });
  await create(page, room);
  const log = page.getByRole('log', { name: `Messages in ${room}` });
  assert.equal(await log.getAttribute('aria-live'), 'polite');
  const bob = client(n1, 'bob');
  await bob.join(room);
  await bob.send(room, 'one');
  await bob.send(room, 'two');
  await until(() => shown(page), ['one', 'two']);
  // The name stands with each message for those who do not see it above.
  const heard = await log.getByRole('article').evaluateAll((all) => all.map((one) => {
    for (const hidden of one.querySelectorAll('[aria-hidden]')) hidden.remove();
    return one.textContent;
  }));
  assert.match(heard[0], /^bob\d\d:\d\done$/);
  assert.match(heard[1], /^bob: \d\d:\d\dtwo$/);
  await until(() => log.getAttribute('aria-busy'), 'false');
  for (const role of ['navigation', 'main', 'log']) {
    assert.equal(await page.getByRole(role).count(), 1, role);
  }
  await until(() => page.getByRole('status').first().textContent(), 'Connected to n1');
});

check('what stands there is not remade, and so not read out, when something comes', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const bob = client(n1, 'bob');
  await bob.create(room);
  await bob.send(room, 'one');
  const page = await visit(await profile(), n1, { name: 'ada' });
  await join(page, room);
  await until(() => shown(page), ['one']);
  await until(() => page.locator('#timeline').getAttribute('aria-busy'), 'false');
  await page.evaluate(() => {
    window.made = [];
    const texts = (nodes) => [...nodes].map((node) => node.textContent);
    new MutationObserver((changes) => {
      for (const { addedNodes } of changes) window.made.push(...texts(addedNodes));
    }).observe(document.getElementById('events'), { childList: true, subtree: true });
  });
  for (const text of ['two', 'three', 'four']) await bob.send(room, text);
  await until(() => shown(page), ['one', 'two', 'three', 'four']);
  const made = await page.evaluate(() => window.made);
  const words = made.map((text) => text.replace(/^.*\d\d:\d\d/, ''));
  assert.deepEqual(words, ['two', 'three', 'four']);
  // What waits to be sent is nobody's news; that it was refused is.
  assert.equal(await page.locator('#pending').getAttribute('aria-live'), 'off');
});

check('what is sent looks from the first moment on as it will when it is there', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  // On a network on which an answer takes its time.
  const door = await Door.to(n1, { delay_ms: 60 });
  const page = await visit(await profile(), door.address, { name: 'ada' });
  await create(page, room);
  const bob = client(n1, 'bob');
  await bob.join(room);
  // Whatever stands above moves what stands below.
  await until(() => page.locator('.fact').count(), 2);
  await page.evaluate(() => {
    window.looks = new Map();
    const look = () => {
      const last = [...document.querySelectorAll('.message')].at(-1);
      if (last) {
        const { top, height } = last.getBoundingClientRect();
        const text = last.querySelector('.text');
        const looks = window.looks.get(text.textContent) ?? new Set();
        looks.add([top, height, getComputedStyle(text).color].join());
        window.looks.set(text.textContent, looks);
      }
      requestAnimationFrame(look);
    };
    look();
  });
  const said = ['with a name', 'without', 'of another', 'with a name again', 'without again'];
  for (const [place, text] of said.entries()) {
    if (place === 2) await bob.send(room, text);
    else await write(page, text);
    await until(() => shown(page), said.slice(0, place + 1));
    await until(() => pending(page), []);
  }
  const looks = await page.evaluate(() => [...window.looks].map(([text, all]) => [text, all.size]));
  assert.deepEqual(looks, said.map((text) => [text, 1]));
});

check('many who come one after the other are one line', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const page = await visit(await profile(), n1, { name: 'ada' });
  await create(page, room);
  const facts = async () => (await page.locator('.fact').allTextContents())
    .map((fact) => fact.replace(/ \d\d:.*/, ''));
  const guests = ['bob', 'cleo', 'dora', 'emmy'].map((user) => client(n1, user));
  const lines = ['bob', 'bob and cleo', 'bob, cleo and dora', 'bob, cleo and 2 others'];
  for (const [place, guest] of guests.entries()) {
    await guest.join(room);
    await until(facts, ['ada made this room', `${lines[place]} joined`]);
  }
  await guests[0].send(room, 'Hello!');
  await guests[1].leave(room);
  await guests[2].leave(room);
  await guests[1].join(room);
  await until(async () => (await facts()).slice(-2), ['cleo and dora left', 'cleo joined']);
  // All of them are there, in order.
  assertWhole(await seqs(page));
  assert.equal((await seqs(page)).length, 9);
});

check('Today is Yesterday after midnight', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const page = await (await profile()).newPage();
  await page.clock.install();
  await page.goto(`http://${n1}/`);
  await enter(page, 'ada');
  await create(page, room);
  await until(() => page.locator('.divider.day').allTextContents(), ['Today']);
  await page.clock.fastForward('24:00:00');
  await until(() => page.locator('.divider.day').allTextContents(), ['Yesterday']);
});

check('on the smallest telephone everything has its place, on glass as well', async () => {
  const { n1 } = await nodes();
  const room = roomName('a room with a name that is longer than the screen is wide');
  const small = { width: 320, height: 640, hasTouch: true, isMobile: true, locale: 'en-US' };
  const page = await visit(await profile(small), n1, { name: 'ada' });
  await create(page, room);
  const bob = client(n1, 'bob');
  await bob.join(room);
  await bob.send(room, 'one');
  await bob.send(room, 'two');
  await until(() => shown(page), ['one', 'two']);
  await page.evaluate(async () => {
    const { toast } = await import('./toast.js');
    toast('The server cannot store anything at the moment. Please try again.');
  });
  const found = await page.evaluate(() => {
    const style = (selector) => getComputedStyle(document.querySelector(selector));
    const box = (selector) => document.querySelector(selector).getBoundingClientRect();
    return {
      // One line, whatever it says.
      facts: box('#room-facts').height < 20,
      placeholder: style('#message').textOverflow,
      toast: box('#toast').width > 280,
      // Nothing can be pointed at, so the time is there without; and beside the text, not in it.
      time: style('.grouped > time').opacity,
      isBeside: box('.grouped > time').right <= box('.grouped .text').left,
      // Whatever stands in the middle stands in the same middle.
      left: box('#composer').left === box('#events').left,
      page: document.documentElement.scrollWidth,
    };
  });
  assert.match(await page.locator('.grouped > time').textContent(), /^\d?\d:\d\d$/);
  assert.deepEqual(found, {
    facts: true, placeholder: 'ellipsis', toast: true, time: '1', isBeside: true, left: true,
    page: 320,
  });
});
