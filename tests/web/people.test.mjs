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
