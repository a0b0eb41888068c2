/** One room, as far as the page knows it: a value that Rooms fills in and others show. */

export class Room {
  constructor(name) {
    this.name = name;
    /** Whether the user is a member; undefined: not known. */
    this.isJoined = undefined;
    /** There is no such room; somebody came by an address. */
    this.isMissing = false;
    this.members = 0;
    /** The seq as of which the server counted them. */
    this.membersAt = 0;
    this.lastSeq = 0;
    /** A piece of the log without a hole, oldest first. */
    this.events = [];
    /** Whether there is something before the first event. */
    this.hasOlder = true;
    this.isLoading = false;
    /** Messages of the user that are not in the log yet: `{ id, text, at, error }`. */
    this.pending = [];
    this.unread = 0;
    /** Up to where the unread were counted, by the server or here. */
    this.countedTo = 0;
    this.readSeq = 0;
    /** Where the line "New" stands while the room is open. */
    this.newFrom = 0;
    /** Users who are there now; undefined: the server does not tell, or there are too many. */
    this.online = undefined;
    /** How many they are; undefined: the server does not tell. */
    this.onlineCount = undefined;
    /** Until when each user is taken as typing. */
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

  /** The oldest leave. */
  shorten(lenMax) {
    if (this.events.length <= lenMax) return;
    this.events.splice(0, this.events.length - lenMax);
    this.hasOlder = true;
  }

  /** The seq of the first unread message, as far as it is in the window; 0: there is none. */
  firstUnread(user) {
    const news = this.events.filter((event) => isNews(event, user));
    return news.at(-this.unread)?.seq ?? news[0]?.seq ?? 0;
  }
}

export function isNews({ type, user_id }, user) {
  return type === 'message' && user_id !== user;
}
