/**
 * The conversation as it is read: a window of the room's events in the document.
 *
 * It keeps no events. `draw` makes the document like the room, whatever happened in between, and
 * keeps what the reader looks at where it is.
 */

import { fill, find, say, soon } from './dom.js';
import { LATE_MS, linesOfEvents, linesOfPending } from './lines.js';
import { rowOf } from './row.js';
import { atMidnight, count, errorText } from './words.js';

/** So close to the end counts as there: a line, or what rounding makes of it. */
const END_PX = 48;
/** So close to an edge of the window the next page is fetched, before the reader gets there. */
const FETCH_PX = 800;
/** What is shown above the first unread message. */
const NEW_PX = 24;
/** After a page that could not be fetched. */
const RETRY_PAUSE_MS = 2000;

export class Timeline {
  #rooms;
  #user;
  #scroller = find('timeline');
  #events = find('events');
  #pending = find('pending');
  #top = find('timeline-top');
  #latest = find('latest');
  #room = null;
  /** The element of each line, by its key, and the look that it has. */
  #rows = new Map();
  /** The window that was drawn: its first and last seq. */
  #first = 0;
  #last = 0;
  #lateTimer;
  /** The reader is at the end, and is kept there. */
  #isAtEnd = true;
  #isFetching = false;
  /** The room was opened, and it is not decided yet where in it one begins. */
  #isToNew = false;
  /** The reader wants to be at the end of the room, and may have to wait for a page. */
  #isToLatest = false;
  #pageVisible = () => document.visibilityState === 'visible' && document.hasFocus();
  draw = soon(() => this.#draw());

  constructor(rooms, user) {
    [this.#rooms, this.#user] = [rooms, user];
    const scroller = this.#scroller;
    scroller.onscroll = () => this.#onScroll();
    this.#latest.onclick = () => this.toLatest();
    // The composer grows, the keyboard comes up, the window is turned: the end stays the end.
    new ResizeObserver(() => this.#isAtEnd && this.#toEnd()).observe(scroller);
    for (const type of ['focus', 'blur']) window.addEventListener(type, () => this.#watch());
    document.addEventListener('visibilitychange', () => {
      this.#watch();
      this.draw();
    });
    // A long message is shown in full: now the end may be out of sight.
    this.#events.addEventListener('click', () => this.#onScroll());
    atMidnight(this.draw);
  }

  /** Shows another room, at its end or where the unread begin, as soon as it is ready. */
  show(room) {
    this.#room = room;
    [this.#isAtEnd, this.#isToNew, this.#isToLatest] = [true, true, false];
    this.#scroller.setAttribute('aria-label', `Messages in ${room.name}`);
    this.#rows.clear();
    [this.#first, this.#last] = [0, 0];
    this.draw();
  }

  toLatest() {
    [this.#isAtEnd, this.#isToNew, this.#isToLatest] = [true, false, true];
    this.#toEnd();
    this.draw();
  }

  get isAtEnd() {
    return this.#isAtEnd && this.#isLive;
  }

  scrollBy(pages) {
    this.#scroller.scrollBy({ top: pages * this.#scroller.clientHeight * 0.85 });
  }

  #draw() {
    const room = this.#room;
    if (!room || room !== this.#rooms.active) return;
    // Old lines that come in above, or all of another room, are no news to be read out.
    const [first, last] = room.isReady ? [room.events[0]?.seq ?? 0, room.last] : [0, 0];
    const isNews = this.#first > 0 && this.#first <= first && this.#last >= first;
    [this.#first, this.#last] = [first, last];
    this.#scroller.setAttribute('aria-busy', String(!isNews));
    const anchor = this.#isAtEnd ? null : this.#anchor();
    this.#drawLines(room);
    say(this.#top, this.#topText(room));
    if (this.#isAtEnd) this.#toEnd();
    else this.#restore(anchor);
    if (room.isReady && this.#isToNew) this.#toNew();
    requestAnimationFrame(() => this.#scroller.setAttribute('aria-busy', 'false'));
    this.#after();
  }

  /** Makes what is missing and remakes what looks otherwise; the rest is not touched. */
  #drawLines(room) {
    const events = room.isReady ? linesOfEvents(room.events, room.newFrom) : [];
    const { isOpen } = this.#rooms;
    const before = { last: room.isLive ? room.events.at(-1) : undefined, user: this.#user, isOpen };
    const pending = linesOfPending(room.pending, before);
    const rows = new Map([...events, ...pending].map((line) => [line.key, this.#row(room, line)]));
    this.#rows = rows;
    const elements = (lines) => lines.map(({ key }) => rows.get(key).element);
    fill(this.#events, elements(events));
    fill(this.#pending, elements(pending));
    const next = pending.find(({ isLate, error }) => !isLate && !error);
    clearTimeout(this.#lateTimer);
    if (next) this.#lateTimer = setTimeout(this.draw, LATE_MS);
  }

  #row(room, line) {
    const old = this.#rows.get(line.key);
    if (old?.look === line.look) return old;
    const element = rowOf(line, {
      onResend: (id) => this.#rooms.outgoing.resend(room, id),
      onDiscard: (id) => this.#rooms.outgoing.discard(room, id),
    });
    return { look: line.look, element };
  }

  /** The first line in sight of those that are of the log: its seq, and where it stands. */
  #anchor() {
    const top = this.#scroller.getBoundingClientRect().top;
    const rows = this.#events.children;
    let [low, high] = [0, rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows[middle].getBoundingClientRect().bottom > top) high = middle;
      else low = middle + 1;
    }
    while (rows[low] && !rows[low].dataset.seq) low += 1;
    const row = rows[low];
    return row && { seq: Number(row.dataset.seq), top: row.getBoundingClientRect().top };
  }

  /** Brings that line back to where it stood. Its element may be another by now. */
  #restore(anchor) {
    const row = anchor && [...this.#events.children].find(({ dataset: { seq, last } }) => (
      seq <= anchor.seq && anchor.seq <= last));
    if (row) this.#scroller.scrollTop += row.getBoundingClientRect().top - anchor.top;
  }

  /** Once after a room was opened: to where the unread begin, should that be out of sight. */
  #toNew() {
    this.#isToNew = false;
    const line = this.#events.querySelector('.divider.new');
    if (!line) return;
    const above = this.#scroller.getBoundingClientRect().top - line.getBoundingClientRect().top;
    if (above > 0) this.#scroller.scrollTop -= above + NEW_PX;
    this.#isAtEnd = false;
    this.#measure();
  }

  #toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #onScroll() {
    if (!this.#room) return;
    this.#measure();
    // Who turns back has another wish.
    if (!this.#isAtEnd) this.#isToLatest = false;
    this.#after();
  }

  /** At the end of a window that ends before the room nobody is kept: there is more to read. */
  #measure() {
    this.#isAtEnd = this.#below < END_PX && (this.#isAtEnd || this.#isLive);
  }

  /** What is drawn ends where the room does. (What came since would not be seen by measuring.) */
  get #isLive() {
    return this.#last >= (this.#room?.lastSeq ?? 0);
  }

  get #below() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight;
  }

  /** Fetches what is wanted or about to be reached, and says what is out of sight. */
  #after() {
    const room = this.#room;
    if (room?.isReady) this.#fetchNext(room);
    this.#watch();
    this.#latest.hidden = !room?.isReady || this.isAtEnd;
    const unread = room?.unread ?? 0;
    say(this.#latest, unread > 0 ? `${count(unread, 'new message')} ↓` : 'To the latest ↓');
  }

  #fetchNext(room) {
    const { pages } = this.#rooms;
    if (room.isLive) this.#isToLatest = false;
    if (this.#isToLatest) {
      // Whatever page comes, the reader is to be at the end of the last one.
      this.#isAtEnd = true;
      this.#fetch(() => pages.latest(room));
    } else if (this.#scroller.scrollTop < FETCH_PX && room.hasOlder) {
      this.#fetch(() => pages.older(room));
    } else if (this.#below < FETCH_PX && !room.isLive) this.#fetch(() => pages.newer(room));
  }

  #watch() {
    const isPresent = this.#pageVisible();
    this.#rooms.watch(this.isAtEnd && isPresent, isPresent);
  }

  async #fetch(load) {
    if (this.#isFetching) return;
    this.#isFetching = true;
    try {
      await load();
    } catch {
      // The connection is shown elsewhere; when it is back the reader will still want this page.
      await new Promise((resolve) => { setTimeout(resolve, RETRY_PAUSE_MS); });
    } finally {
      this.#isFetching = false;
      this.draw();
    }
  }

  #topText(room) {
    const isEmpty = room.events.length === 0 || !room.isReady;
    if (isEmpty && room.error) return errorText(room.error);
    const isAway = isEmpty && !this.#rooms.isOpen;
    if (isAway) return 'What was said here is shown when there is a connection.';
    if (isEmpty || room.hasOlder) return 'Loading…';
    return `The beginning of ${room.name}`;
  }
}
