/** Types of verbatim.js, Verbatim's client for browsers and for Node. */

/** Connects, and connects again whenever the connection ends, until `close()`. */
export function connect(url: string | { readonly href: string }, options: Options): Chat;

export interface Options {
  /** Who speaks. 1 to 128 bytes; anything invisible in it is refused, with `state` `closed`. */
  user: string | number;
  /**
   * Where messages wait that are not stored yet, so that they outlive the page: `localStorage`, or
   * anything like it. Several pages may share one. Without it they wait in memory.
   */
  storage?: Store | undefined;
  /** For Node before 22, which has none: `WebSocket` of the package `ws`. */
  WebSocket?: (new (url: string) => any) | undefined;
  /** Before a reconnect: the longest first pause, which doubles up to the second number. */
  backoff_ms?: readonly [first: number, most: number] | undefined;
}

/** What the client uses of a `Storage`. Named here, so that Node needs no types of browsers. */
export interface Store {
  readonly length: number;
  key(place: number): string | null;
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

/**
 * - `connecting`: a connection is being made.
 * - `resuming`: it stands, and what was missed is coming in.
 * - `open`: all that was missed is here.
 * - `waiting`: it broke, and the next one is made after a pause.
 * - `closed`: it is over: `close()` was called, or the server refuses this client for good.
 */
export type State = 'connecting' | 'resuming' | 'open' | 'waiting' | 'closed';

export interface Chat {
  /** As the server knows it: in Unicode normalization form C. */
  readonly user: string;
  readonly state: State;
  /** The node that this connection leads to. */
  readonly node: string | undefined;
  /** The server's name and version. */
  readonly server: string | undefined;
  readonly limits: { frame_bytes: number; message_bytes: number } | undefined;

  /** Calls `listener` for each event of that type; returns what ends that. */
  on<T extends keyof Events>(type: T, listener: (event: Events[T]) => void): () => void;

  /**
   * Makes the user a member of the room, if they are not one, and follows it: from now on; with
   * `since` everything above that seq first; with `last` so many events first. A room stays
   * followed through all breaks, until the user leaves it.
   */
  join(room: string, from?: From): Promise<Joined>;
  /** Ends the membership. Closing the connection does not. */
  leave(room: string): Promise<Ack>;
  /** Makes a room, with the user as its owner. It is not followed before it is joined. */
  create(room: string): Promise<Ack>;

  /**
   * Resolves with the seq once the message is stored: exactly once, in the order of the calls for
   * each room, however many connections that takes. Rejects if the server refuses it for good
   * (`not_member`, `too_large`, …). `id` is what makes it one message: 1 to 64 characters of
   * printable ASCII, by default a new one. Another that waits may not have the same, and if another
   * command of the user in this room had it, the server refuses the message (`id_reused`).
   */
  send(room: string, message: string, options?: { id?: string | undefined }): Promise<number>;
  /** Messages that are not known to be stored, oldest first, also those of other pages. */
  waiting(): Waiting[];

  /**
   * Follows rooms of which the user is a member already, each from its seq on: `positions()` of an
   * earlier time. Each is told as `joined`, or as `left` if the user is no member any more.
   */
  resume(positions: Record<string, number>): void;
  /** The highest seq of each followed room that was told as an `event`. It has no prototype. */
  positions(): Record<string, number>;

  /**
   * Events before or after a seq, or the newest, oldest first; 50, at most 200, and fewer if they
   * are long: `more` says whether to go on. Members only.
   */
  history(room: string, page?: HistoryPage): Promise<History>;
  /** All rooms by name, from the one after `after` on; 100, at most 1000. */
  rooms(page?: { after?: string | undefined; limit?: number | undefined }): Promise<RoomList>;
  /** The room's members by id, 1000 at a time. Members only. */
  members(room: string, page?: { after?: string | undefined }): Promise<MemberList>;

  /**
   * Who is online in a room, and `presence` from then on, as long as this connection lasts: to be
   * asked behind each `joined`. `undefined` if the server does not know of it, or is away.
   */
  who(room: string): Promise<Who | undefined>;
  /**
   * Tells the others that the user is typing. May be called at each key: it is told every 3 s, and
   * at once behind a message.
   */
  typing(room: string): Promise<unknown>;
  /** Moves the user's mark of what they have read. */
  read(room: string, seq: number): Promise<unknown>;

  /**
   * Something changed (the network is back or gone, the laptop was opened): looks at once whether
   * the connection is there. While messages wait for their answers the client does so itself.
   */
  wake(): void;
  /** Ends it. What waits in the storage goes out with the next `connect`. */
  close(): void;
}

export interface Events {
  /** An entry of a room's log: each once, in order, without a hole. */
  event: LogEvent;
  state: { state: State; retry_ms?: number; code?: number; reason?: string; error?: ChatError };
  /** A room is followed (again). */
  joined: Joined;
  /** A room is not followed any more: the user left it, here or elsewhere, or `error` says why. */
  left: { room: string; error?: ChatError };
  /** The server's log is older than what was told: forget what you know of the room. */
  reset: { room: string; last_seq: number };
  /** A message that waited is stored. `duplicate`: it had been before, and is there once. */
  sent: { id: string; room: string; seq: number; duplicate: boolean };
  /** A message that waited will not be stored. */
  refused: { id: string; room: string; message: string; error: ChatError };
  /** Who is online in a room, when the server tells it anew by itself. */
  who: Who;
  /** Who came and who went, in rooms that were asked for with `who`. Without `online`: a crowd. */
  presence: { room: string; online?: string[]; offline?: string[]; count: number };
  typing: { room: string; user_id: string; expires_ms: number };
  read: { room: string; user_id: string; seq: number };
  /** An error that answers nothing that was asked. */
  error: ChatError;
}

export interface LogEvent {
  type: 'create' | 'join' | 'leave' | 'message';
  room: string;
  user_id: string;
  /** Of a `message`. */
  message?: string;
  seq: number;
  /** RFC 3339, UTC. */
  at: string;
  /** The `id` of the command that made it. */
  client_id?: string;
}

export interface Waiting {
  id: string;
  room: string;
  message: string;
  /** When it was sent, in milliseconds since 1970. */
  at: number;
  /** It is in the storage. Else it ends with the page: there is no storage, or no room in it. */
  kept: boolean;
}
export interface Ack { re: string; room: string; seq: number; at: string; duplicate?: true }
export interface Joined {
  room: string; user_id: string; last_seq: number; members: number; read?: number; unread?: number;
}
export interface From { since?: number | undefined; last?: number | undefined }
export interface HistoryPage {
  before?: number | undefined;
  after?: number | undefined;
  limit?: number | undefined;
}
export interface History {
  room: string; events: LogEvent[]; first?: number; last?: number; more: boolean;
}
export interface RoomList {
  rooms: { room: string; last_seq: number; members: number; read?: number; unread?: number }[];
  more: boolean;
}
export interface MemberList {
  room: string; members: { user_id: string; role: 'owner' | 'member' }[]; more: boolean;
}
export interface Who { room: string; online?: string[]; count: number }

/**
 * A refusal. `code` is one of the protocol's (docs/protocol.md), or one of this client's own:
 * `timeout` (no answer in 15 s), `closed`, `refused` (the server will not talk to this client),
 * `full` (more than 1000 wait).
 */
export class ChatError extends Error {
  /** From the fields of an `error` frame; `error` becomes the `message`. */
  constructor(frame: Refusal & { error: string });
  readonly code: string;
  readonly status: number | undefined;
  readonly field: string | undefined;
  readonly limit: number | undefined;
  readonly retry_after_ms: number | undefined;
  readonly room: string | undefined;
}

export interface Refusal {
  code: string;
  status?: number | undefined;
  field?: string | undefined;
  limit?: number | undefined;
  retry_after_ms?: number | undefined;
  room?: string | undefined;
}

/** An id as `send` makes it, for those who want to know it before. */
export function newId(): string;
