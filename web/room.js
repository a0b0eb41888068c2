/** One room, as far as the page knows it: a value that Rooms fills in and others show. */

export class Room {
  constructor(name) {
    this.name = name;
    /** Whether the user is a member; undefined: not known. */
    this.isJoined = undefined;
    /** There is no such room; somebody came by an address. */
    this.isMissing = false;
    /** Why it cannot be shown, if there is a reason other than these. */
    this.error = undefined;
    /** It is open, and all that is needed to show it is here. */
    this.isReady = false;
    /** What makes it so, while that is under way. */
    this.preparing = undefined;
    this.members = 0;
    /** The seq as of which the server counted them. */
    this.membersAt = 0;
    this.lastSeq = 0;
    /** A piece of the log without a hole, oldest first. */
    this.events = [];
    /** Whether there is something before the first event. */
    this.hasOlder = true;
    /** The page of history that is on its way. */
    this.loading = undefined;
    /** Messages of the user that are not in the log: `{ id, text, at, error, isKept }`. */
    this.pending = [];
    this.unread = 0;
    /** The server has said how many are unread, and up to where they were read. */
    this.isCounted = false;
    /** Up to where the unread were counted, by the server or here. */
    this.countedTo = 0;
    this.readSeq = 0;
    /** Where the line "New" stands while the room is open. */
    this.newFrom = 0;
    /** Users who are there now; undefined: the server does not tell, or there are too many. */
    this.online = undefined;
    /** How many they are; undefined: the server does not tell. */
    this.onlineCount = undefined;
    /** Until when each user is taken as typing, by `performance.now()`. */
    this.typing = new Map();
  }

  get last() {
    return this.events.at(-1)?.seq ?? 0;
  }

  /** The window ends where the room does. */
  get isLive() {
    return this.last >= this.lastSeq;
  }

  /** An event belongs to the window if it is the next one. */
  append(event, lenMax) {
    if (this.events.length > 0 && event.seq !== this.last + 1) return;
    if (this.events.length === 0) this.hasOlder = event.seq > 1;
    this.events.push(event);
    this.shorten(lenMax);
  }

  /** Another window. If the old one goes on where it ends, that is kept. */
  replace(events, hasOlder, lenMax) {
    const next = (events.at(-1)?.seq ?? 0) + 1;
    const place = this.events.findIndex(({ seq }) => seq === next);
    const rest = place < 0 ? [] : this.events.slice(place);
    this.events = [...events, ...rest].slice(0, lenMax);
    this.hasOlder = hasOlder;
  }

  /** The oldest leave. */
  shorten(lenMax) {
    if (this.events.length <= lenMax) return;
    this.events.splice(0, this.events.length - lenMax);
    this.hasOlder = true;
  }

  /** Whether nothing is missing between that seq and the window. */
  reaches(seq) {
    return this.events.length > 0 && this.events[0].seq <= seq + 1;
  }

  /** What is new to the user above that seq, as far as it is in the window. */
  newsAbove(seq, user) {
    return this.events.filter((event) => event.seq > seq && isNews(event, user));
  }

  /** The seq of the first unread message; 0: there is none, or it is before the window. */
  firstUnread(user) {
    return this.reaches(this.readSeq) ? this.newsAbove(this.readSeq, user)[0]?.seq ?? 0 : 0;
  }
}

export function isNews({ type, user_id }, user) {
  return type === 'message' && user_id !== user;
}
