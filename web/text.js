/** The text of a message, as it was typed: only addresses in it become more than text. */

import { make } from './dom.js';
import { number } from './words.js';

/** Beyond it a message is shown in part, until asked for. */
const SHOWN_CHARS_MAX = 1500;
const SHOWN_LINES_MAX = 18;
/** Nothing invisible belongs to an address: what is seen is where one goes. */
const ADDRESS = /\bhttps?:\/\/[^\s<>"'`\p{C}]+/giu;
/** What ends the sentence around an address, mostly. */
const TAIL = /[.,:;!?…*_~)\]}]+$/u;

/** Its direction is its own, and reaches nothing around it. */
export function textOf(text) {
  const paragraph = make('p', { class: 'text', dir: 'auto' }, ...parts(text));
  const lines = text.split('\n').length;
  if (text.length <= SHOWN_CHARS_MAX && lines <= SHOWN_LINES_MAX) return [paragraph];
  paragraph.classList.add('cut');
  const more = make('button', { type: 'button', class: 'link more' },
    `Show all ${number(text.length)} characters`);
  more.addEventListener('click', () => {
    paragraph.classList.remove('cut');
    // Who works with the keyboard goes on from the text, not from the top of the page.
    paragraph.tabIndex = -1;
    paragraph.focus({ preventScroll: true });
    more.remove();
  });
  return [paragraph, more];
}

/** Text and links, one after the other. Together they are the text, to the letter. */
function parts(text) {
  const all = [];
  let from = 0;
  for (const { 0: found, index } of text.matchAll(ADDRESS)) {
    const address = withoutTail(found);
    const url = urlOf(address);
    if (url) {
      all.push(text.slice(from, index), link(address, url));
      from = index + address.length;
    }
  }
  return [...all, text.slice(from)];
}

/** A bracket that was opened in the address is part of it. */
function withoutTail(address) {
  const short = address.replace(TAIL, '');
  const rest = address.slice(short.length);
  return rest.startsWith(')') && short.includes('(') ? `${short})` : short;
}

/** Nothing but the web, and no `user@` in front of where it leads. */
function urlOf(address) {
  try {
    const url = new URL(address);
    const isPlain = ['http:', 'https:'].includes(url.protocol) && url.username === '';
    return isPlain && url.password === '' ? url.href : undefined;
  } catch {
    return undefined;
  }
}

function link(address, href) {
  return make('a', { href, target: '_blank', rel: 'noopener noreferrer' }, address);
}
