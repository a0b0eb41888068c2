// People in a browser: who is in a room, who is there, who is typing.
import assert from 'node:assert/strict';
import { create, join, profile, until, visit } from './browser.mjs';
import { client, nodes, roomName, check } from './cluster.mjs';

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

check('who is there is named, also in a room of more than a page of members', async () => {
  const { n1 } = await nodes();
  const room = roomName();
  const last = client(n1, 'zz-last');
  await last.create(room);
  await last.join(room);
  const members = Array.from({ length: 1010 }, (_, place) => `member-${place}`);
  const come = async (user) => {
    const path = `/api/rooms/${room}/members/${user}`;
    const { ok } = await fetch(`http://${n1}${path}`, { method: 'PUT' });
    assert.ok(ok);
  };
  for (let from = 0; from < members.length; from += 50) {
    await Promise.all(members.slice(from, from + 50).map(come));
  }
  const ada = await visit(await profile(), n1, { name: 'ada' });
  await join(ada, room);
  await until(() => ada.locator('.people h3').allTextContents(), ['Online · 2', 'Away']);
  await until(() => ada.locator('.people .here bdi').allTextContents(), ['ada', 'zz-last']);
  await until(() => ada.locator('.people .hint').textContent(), 'and 712 others');
});

check('on a narrow screen people lie over the rest, which waits', async () => {
  const { n1 } = await nodes();
  const ada = await visit(await profile({ width: 800, height: 800 }), n1, { name: 'ada' });
  await create(ada, roomName());
  const toggle = ada.locator('#people-toggle');
  const panel = ada.getByRole('complementary');
  const focused = () => ada.evaluate(() => document.activeElement.id);
  const isAway = async () => {
    await until(() => panel.isVisible(), false);
    await until(focused, 'people-toggle');
    await until(() => ada.locator('#message').isEditable(), true);
  };
  await toggle.click();
  await panel.waitFor();
  await until(focused, 'people-close');
  // The keys stay in it, and what is behind cannot be clicked.
  await ada.keyboard.press('Tab');
  assert.notEqual(await focused(), 'message');
  await ada.locator('#people-backdrop').click({ position: { x: 20, y: 400 } });
  await isAway();
  await toggle.click();
  await ada.keyboard.press('Escape');
  await isAway();
  await toggle.click();
  await ada.getByRole('button', { name: 'Close the list of people' }).click();
  await isAway();
  // That is no word about a screen with room for them.
  await ada.setViewportSize({ width: 1280, height: 800 });
  await panel.waitFor();
  await toggle.click();
  await until(() => panel.isVisible(), false);
  await ada.reload();
  await ada.getByRole('log').waitFor();
  assert.equal(await panel.isVisible(), false);
});
