/**
 * What stands in a conversation, line by line, from the events of a room and what waits to be sent.
 *
 * Pure: it makes no elements. Each line has a `key` that is its own in the room and a `look` that
 * names all that its element depends on: as long as both are the same, so is the element.
 */

import { dayOf } from './words.js';

/** Messages of one person within this time stand together under one name. */
const GROUP_MS = 5 * 60_000;
/** Until then a message that was sent looks as if it had arrived. It has, mostly. */
export const LATE_MS = 2000;

/** `newFrom`: the seq behind the line "New"; 0: there is none. */
export function linesOfEvents(events, newFrom, now = Date.now()) {
  const lines = [];
  let [before, day] = [undefined, undefined];
  for (const event of events) {
    const today = dayKey(event.at);
    if (today !== day) lines.push(dayLine(`d${event.seq}`, event.at, now));
    if (event.seq === newFrom) lines.push({ kind: 'new', key: 'new', look: '' });
    const isBreak = today !== day || event.seq === newFrom;
    const isGrouped = !isBreak && follows(event, before);
    const last = lines.at(-1);
    if (event.type === 'message') lines.push(messageLine(event, isGrouped));
    else if (!isBreak && last?.kind === 'fact' && last.type === event.type) extend(last, event);
    else lines.push(factLine(event));
    [before, day] = [event, today];
  }
  return lines;
}

/** `last`: the event before, if it is the last of the room; `isOpen`: there is a connection. */
export function linesOfPending(pending, { last, user, isOpen }, now = Date.now()) {
  const lines = [];
  let [before, day] = [last, last && dayKey(last.at)];
  for (const { id, text, at, error, isKept } of pending) {
    const today = dayKey(at);
    if (day !== undefined && today !== day) lines.push(dayLine(`dp${id}`, at, now));
    const isLate = !isOpen || now - at >= LATE_MS;
    const event = { type: 'message', user_id: user, message: text, at };
    const isGrouped = today === day && follows(event, before);
    const look = [isGrouped, isLate, error?.code, isKept].join();
    const line = { kind: 'pending', key: `p${id}`, look, id, event, error };
    lines.push({ ...line, isGrouped, isLate, isKept });
    [before, day] = [event, today];
  }
  return lines;
}

function dayLine(key, at, now) {
  const text = dayOf(at, new Date(now));
  return { kind: 'day', key, look: text, text };
}

function messageLine(event, isGrouped) {
  const { seq } = event;
  const line = { kind: 'message', key: `e${seq}`, look: isGrouped, first: seq, last: seq };
  return { ...line, event, isGrouped };
}

/** Somebody's coming or going. */
function factLine(event) {
  const { type, seq } = event;
  return { kind: 'fact', key: `f${seq}`, look: seq, first: seq, last: seq, type, events: [event] };
}

/** Many who come one after the other are one line. */
function extend(line, event) {
  line.events.push(event);
  line.last = line.look = event.seq;
}

function follows(event, before) {
  return before?.type === 'message' && before.user_id === event.user_id
    && new Date(event.at) - new Date(before.at) < GROUP_MS;
}

function dayKey(at) {
  return new Date(at).toDateString();
}
