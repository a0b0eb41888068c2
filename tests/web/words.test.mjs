// What the page says, and what lines a conversation has: pure functions, tested without a browser.
import assert from 'node:assert/strict';
import { linesOfEvents, linesOfPending } from '../../web/lines.js';
import { initials } from '../../web/words.js';
import { check } from './cluster.mjs';

check('a name has one or two letters to stand for it, whatever it is', () => {
  for (const [name, letters] of [
    ['ada', 'A'], ['Ada Lovelace', 'AL'], ['ada-king_of.lovelace', 'AK'], ['åsa öberg', 'ÅÖ'],
    ['___', '_'], ['-', '-'], ['42', '4'], ['👩‍👩‍👧‍👦 family', '👩‍👩‍👧‍👦F'], ['e\u0301va', 'E\u0301'],
  ]) assert.equal(initials(name), letters, name);
});

/** Events of one minute, each as `type user`. */
function events(...what) {
  return what.map((words, place) => {
    const [type, user_id] = words.split(' ');
    return { type, user_id, seq: place + 1, at: `2026-01-02T12:00:0${place}Z` };
  });
}

function kinds(lines) {
  return lines.map(({ kind, isGrouped, first, last }) => {
    const span = first === undefined ? '' : ` ${first}-${last}`;
    return `${kind}${isGrouped ? ' grouped' : ''}${span}`;
  });
}

check('what belongs together is one line or one group, unless new parts it', () => {
  const log = events(
    'create ada', 'join bob', 'join cleo', 'leave bob',
    'message ada', 'message ada', 'message cleo', 'message cleo',
  );
  const now = Date.parse('2026-01-02T13:00:00Z');
  assert.deepEqual(kinds(linesOfEvents(log, 0, now)), [
    'day', 'fact 1-1', 'fact 2-3', 'fact 4-4', 'message 5-5', 'message grouped 6-6', 'message 7-7',
    'message grouped 8-8',
  ]);
  assert.deepEqual(kinds(linesOfEvents(log, 6, now)).slice(4, 7), [
    'message 5-5', 'new', 'message 6-6',
  ]);
  // Keys are unique, whatever the clock said.
  const confused = log.map((event, place) => (
    place % 2 ? { ...event, at: '2026-01-01T12:00:00Z' } : event));
  const keys = linesOfEvents(confused, 0, now).map(({ key }) => key);
  assert.equal(new Set(keys).size, keys.length);
});

check('what waits is late after two seconds, or at once without a connection', () => {
  const now = Date.parse('2026-01-02T12:01:00Z');
  const [last] = events('message ada');
  const pending = [{ id: 'a', text: 'x', at: now - 1999 }, { id: 'b', text: 'y', at: now - 2000 }];
  const look = (isOpen, user = 'ada') => linesOfPending(pending, { last, user, isOpen }, now)
    .map(({ isGrouped, isLate }) => [isGrouped, isLate]);
  assert.deepEqual(look(true), [[true, false], [true, true]]);
  assert.deepEqual(look(false), [[true, true], [true, true]]);
  assert.deepEqual(look(true, 'bob'), [[false, false], [true, true]]);
});
