/** A line of the conversation: a message, somebody's coming or going, or what waits to be sent. */

import { make } from './dom.js';
import { dayOf, exactTimeOf, hue, initials, isSameDay, number, timeOf } from './words.js';

/** Colours of names in style.css. */
export const HUES = 8;
/** Messages of one person within this time stand together under one name. */
const GROUP_MS = 5 * 60_000;
/** Beyond it a message is shown in part, until asked for. */
const SHOWN_CHARS_MAX = 1500;
const SHOWN_LINES_MAX = 18;

export function avatar(user) {
  const text = initials(user);
  return make('span', { class: `avatar hue-${hue(user, HUES)}`, 'aria-hidden': 'true' }, text);
}

/** The row of an event; what it looks like depends on the one before it. */
export function eventRow(event, before, newFrom) {
  const row = make('div', { class: 'row', 'data-seq': event.seq });
  const isNewDay = !before || !isSameDay(before.at, event.at);
  if (isNewDay) row.append(divider('day', dayOf(event.at)));
  const isFirstNew = event.seq === newFrom;
  if (isFirstNew) row.append(divider('new', 'New'));
  if (event.type !== 'message') {
    row.append(fact(event));
    return row;
  }
  const isGrouped = !isNewDay && !isFirstNew && before.type === 'message'
    && before.user_id === event.user_id && new Date(event.at) - new Date(before.at) < GROUP_MS;
  row.append(message(event, isGrouped));
  return row;
}

/** The row of a message of the user that is not in the log yet. */
export function pendingRow({ id, text, error }, user, { words, onResend, onDiscard }) {
  const own = message({ user_id: user, message: text }, true);
  own.classList.add(error ? 'failed' : 'waiting');
  const why = error ? `Not sent. ${words(error)} ` : 'Waiting to be sent';
  const note = make('p', { class: 'note' }, why);
  if (error) {
    note.append(
      make('button', { type: 'button', class: 'link', onclick: onResend }, 'Try again'),
      make('button', { type: 'button', class: 'link', onclick: onDiscard }, 'Discard'),
    );
  }
  own.append(note);
  return make('div', { class: 'row', 'data-id': id, 'data-failed': Boolean(error) }, own);
}

function divider(kind, text) {
  return make('div', { class: `divider ${kind}`, role: 'separator', 'aria-label': text },
    make('span', {}, text));
}

function fact({ type, user_id, at, seq }) {
  const did = { create: 'made this room', join: 'joined', leave: 'left' }[type] ?? type;
  const name = make('bdi', {}, user_id);
  const time = make('time', { datetime: at, title: place(at, seq) }, timeOf(at));
  return make('p', { class: 'fact' }, name, ` ${did} `, time);
}

function message({ user_id, message: text, at, seq }, isGrouped) {
  const article = make('article', { class: `message${isGrouped ? ' grouped' : ''}` });
  const time = at && make('time', { datetime: at, title: place(at, seq) }, timeOf(at));
  if (isGrouped) {
    // Who speaks is seen by the name above; who cannot see is told each time.
    article.append(make('span', { class: 'unseen' }, `${user_id}: `));
    if (time) article.append(time);
  } else {
    const name = make('bdi', { class: `name hue-${hue(user_id, HUES)}` }, user_id);
    article.append(avatar(user_id), make('header', {}, name, time));
  }
  article.append(...body(text));
  return article;
}

/** The text as it was typed. Its direction is its own, and reaches nothing around it. */
function body(text) {
  const paragraph = make('p', { class: 'text', dir: 'auto' }, text);
  const lines = text.split('\n').length;
  if (text.length <= SHOWN_CHARS_MAX && lines <= SHOWN_LINES_MAX) return [paragraph];
  paragraph.classList.add('cut');
  const more = make('button', { type: 'button', class: 'link more' },
    `Show all ${number(text.length)} characters`);
  more.addEventListener('click', () => {
    paragraph.classList.remove('cut');
    more.remove();
  });
  return [paragraph, more];
}

function place(at, seq) {
  return `${exactTimeOf(at)} · № ${number(seq)}`;
}
