/** The element of a line of the conversation. What lines there are says lines.js. */

import { make } from './dom.js';
import { textOf } from './text.js';
import {
  count, errorText, exactTimeOf, hue, initials, number, shortTimeOf, timeOf,
} from './words.js';

/** Colours of names in frame.css. */
export const HUES = 8;
/** Names in a line of many who came or went, and in what is shown of the others at a glance. */
const NAMED_LEN_MAX = 3;
const OTHERS_LEN_MAX = 50;

export function avatar(user) {
  const text = initials(user);
  return make('span', { class: `avatar hue-${hue(user, HUES)}`, 'aria-hidden': 'true' }, text);
}

/** `onResend(id)` and `onDiscard(id)` are for messages that were not taken. */
export function rowOf(line, { onResend, onDiscard }) {
  switch (line.kind) {
    case 'day': return divider('day', line.text);
    case 'new': return divider('new', 'New');
    case 'fact': return fact(line);
    case 'message': return placed(message(line.event, line.isGrouped), line);
    default: return pending(line, () => onResend(line.id), () => onDiscard(line.id));
  }
}

function placed(row, { first, last }) {
  row.classList.add('row');
  Object.assign(row.dataset, { seq: first, last });
  return row;
}

/** A message of the user that is not in the log yet. On its way it looks as if it were. */
function pending({ event, error, isGrouped, isLate, isKept }, onResend, onDiscard) {
  const own = message(event, isGrouped);
  if (error) {
    own.classList.add('failed');
    own.append(make('p', { class: 'note', role: 'alert' }, `Not sent. ${errorText(error)} `,
      make('button', { type: 'button', class: 'link', onclick: onResend }, 'Try again'), ' ',
      make('button', { type: 'button', class: 'link', onclick: onDiscard }, 'Discard')));
  } else if (isLate) {
    own.classList.add('waiting');
    const advice = isKept === false ? '. It cannot be kept here, so leave the page open' : '';
    own.append(make('p', { class: 'note' }, `Waiting to be sent${advice}`));
  }
  return own;
}

function divider(kind, text) {
  return make('div', { class: `divider ${kind}`, role: 'separator', 'aria-label': text },
    make('span', {}, text));
}

function fact(line) {
  const { at, seq } = line.events.at(-1);
  const did = { create: 'made this room', join: 'joined', leave: 'left' }[line.type] ?? line.type;
  const time = make('time', { datetime: at, title: place(at, seq) }, timeOf(at));
  const users = line.events.map((event) => event.user_id);
  return placed(make('p', { class: 'fact' }, ...names(users), ` ${did} `, time), line);
}

/** “a”, “a and b”, “a, b and c”, “a, b and 5 others”. */
function names(users) {
  const named = users.slice(0, users.length > NAMED_LEN_MAX ? NAMED_LEN_MAX - 1 : NAMED_LEN_MAX);
  const parts = named.map((user) => make('bdi', {}, user));
  const others = users.slice(named.length);
  if (others.length > 0) {
    const more = others.length > OTHERS_LEN_MAX ? ['…'] : [];
    const title = [...others.slice(0, OTHERS_LEN_MAX), ...more].join(', ');
    parts.push(make('span', { title }, count(others.length, 'other')));
  }
  return parts.flatMap((part, at) => {
    if (at === 0) return [part];
    return [at === parts.length - 1 ? ' and ' : ', ', part];
  });
}

function message({ user_id, message: text, at, seq }, isGrouped) {
  const article = make('article', { class: `message${isGrouped ? ' grouped' : ''}` });
  const time = make('time', { datetime: new Date(at).toISOString(), title: place(at, seq) },
    isGrouped ? shortTimeOf(at) : timeOf(at));
  if (isGrouped) {
    // Who speaks is seen by the name above; who cannot see is told each time.
    article.append(make('span', { class: 'unseen' }, `${user_id}: `), time);
  } else {
    const name = make('bdi', { class: `name hue-${hue(user_id, HUES)}` }, user_id);
    article.append(avatar(user_id), make('header', {}, name, time));
  }
  article.append(...textOf(text));
  return article;
}

function place(at, seq) {
  return seq === undefined ? exactTimeOf(at) : `${exactTimeOf(at)} · № ${number(seq)}`;
}
