/** What the page says: times, counts, and errors in words for a person. It touches no document. */

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'short' });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'medium' });
const weekday = new Intl.DateTimeFormat(undefined, {
  weekday: 'long', day: 'numeric', month: 'long',
});
const withYear = new Intl.DateTimeFormat(undefined, { dateStyle: 'long' });
const numbers = new Intl.NumberFormat();

/** The order of names: 2 comes before 10. */
export const collate = new Intl.Collator(undefined, { numeric: true }).compare;

export function timeOf(at) {
  return clock.format(new Date(at));
}

/** Where there is little room: without "PM", which the time above has. */
export function shortTimeOf(at) {
  const parts = clock.formatToParts(new Date(at)).filter(({ type }) => type !== 'dayPeriod');
  return parts.map(({ value }) => value).join('').trim();
}

/** Date and time to the second, for those who want to know exactly. */
export function exactTimeOf(at) {
  return full.format(new Date(at));
}

/** The day by the user's own calendar and clock. */
export function dayOf(at, now = new Date()) {
  const day = new Date(at);
  const yesterday = new Date(now);
  yesterday.setDate(now.getDate() - 1);
  if (day.toDateString() === now.toDateString()) return 'Today';
  if (day.toDateString() === yesterday.toDateString()) return 'Yesterday';
  return (day.getFullYear() === now.getFullYear() ? weekday : withYear).format(day);
}

/** Calls `act` whenever a day begins. While the machine sleeps no timer runs: then a bit later. */
export function atMidnight(act) {
  const midnight = new Date();
  midnight.setHours(24, 0, 0, 0);
  setTimeout(() => {
    act();
    atMidnight(act);
  }, midnight - Date.now() + 50);
}

export function count(number, one, many = `${one}s`) {
  return `${numbers.format(number)} ${number === 1 ? one : many}`;
}

export function number(value) {
  return numbers.format(value);
}

/** A badge has little room. */
export function badge(number) {
  return number > 99 ? '99+' : String(number);
}

/** Who is typing; nothing if nobody is. */
export function typing(users) {
  const [first, second] = users;
  if (users.length === 0) return '';
  if (users.length === 1) return `${first} is typing…`;
  if (users.length === 2) return `${first} and ${second} are typing…`;
  return 'Several people are typing…';
}

/** One or two letters to stand for a name. What looks like one letter is one. */
export function initials(name) {
  const words = name.split(/[\s._-]+/u).filter(Boolean);
  const letters = (words.length > 0 ? words : [name]).slice(0, 2).map(firstLetter);
  return letters.join('').toLocaleUpperCase();
}

function firstLetter(word) {
  if (!Intl.Segmenter) return [...word][0];
  const [first] = new Intl.Segmenter().segment(word);
  return first.segment;
}

/** One of so many colours, always the same for a name (FNV-1a). */
export function hue(name, hues) {
  let hash = 0x811c9dc5;
  for (const letter of name) hash = Math.imul(hash ^ letter.codePointAt(0), 0x01000193);
  return ((hash ^ (hash >>> 15)) >>> 0) % hues;
}

/** What is wrong with a name, in the server's words; it begins with the field, quoted. */
function nameError(what, error) {
  return `The ${what} ${error.message.replace(/^"\w+" /, '')}.`;
}

/** An error for the person in front of the page: what happened, and what to do. */
export function errorText(error) {
  switch (error.code) {
    case 'bad_request':
      if (error.field === 'user_id') return nameError('name', error);
      if (error.field === 'room' || error.field === 'after') return nameError("room's name", error);
      return `The server did not understand: ${error.message}.`;
    case 'room_exists': return 'There is a room of that name already.';
    case 'room_not_found': return 'There is no room of that name.';
    case 'not_member': return 'You are not in this room. Join it first.';
    case 'too_large':
      return `This is longer than one message can be (${numbers.format(error.limit)} bytes). `
        + 'Please send it in parts.';
    case 'rate_limited': return 'That was too fast. Please wait a moment.';
    case 'unavailable': return 'The server cannot store anything at the moment. Please try again.';
    case 'timeout': return 'The server has not answered. Please try again.';
    case 'full': return 'Too much is waiting to be sent already.';
    case 'lost': case 'closed': return 'The connection was closed.';
    case 'refused': return `The server has ended the connection: ${error.message}.`;
    default: return `Something went wrong: ${error.message}.`;
  }
}
