/**
 * What stands above and below the conversation (which room it is, who is in it, who is typing), and
 * what stands there instead of it: to somebody who is not in the room, or if it cannot be had.
 */

import { find, say } from './dom.js';
import { count, errorText, number, typing } from './words.js';

const TYPING_LOOK_MS = 1000;

export class Head {
  #chat;
  #rooms;
  #typingTimer;

  constructor(chat, rooms) {
    [this.#chat, this.#rooms] = [chat, rooms];
  }

  draw() {
    const room = this.#rooms.active;
    const isInside = Boolean(room?.isJoined);
    find('nothing').hidden = Boolean(room);
    find('conversation').hidden = !isInside;
    find('outside').hidden = !room || isInside;
    find('skip').hidden = !isInside;
    const { unread } = this.#rooms;
    document.title = `${unread > 0 ? `(${unread}) ` : ''}${room ? `${room.name} · ` : ''}Verbatim`;
    if (isInside) this.#drawInside(room);
    else if (room) this.#drawOutside(room);
  }

  /** Somebody who has stopped without a word is forgotten after a while. */
  drawTyping() {
    clearTimeout(this.#typingTimer);
    const room = this.#rooms.active;
    if (!room) return;
    const now = performance.now();
    const users = [...room.typing].filter(([, until]) => until > now).map(([user]) => user);
    say(find('typing'), typing(users));
    if (users.length > 0) this.#typingTimer = setTimeout(() => this.drawTyping(), TYPING_LOOK_MS);
  }

  #drawInside({ name, members, onlineCount, lastSeq }) {
    const online = onlineCount === undefined ? '' : ` · ${number(onlineCount)} online`;
    say(find('room-name'), name);
    say(find('room-facts'), `${count(members, 'member')}${online}`);
    say(find('position'), `${this.#chat.node ?? '–'} · № ${number(lastSeq)}`);
  }

  #drawOutside(room) {
    say(find('outside-name'), room.name);
    say(find('outside-facts'), this.#outsideText(room));
    say(find('join'), room.isMissing ? 'Create this room' : 'Join this room');
    find('join').hidden = room.isJoined !== false || Boolean(room.error);
  }

  /** Why the room is not shown; or what it is, to somebody who is not in it. */
  #outsideText({ isJoined, isMissing, error, members, lastSeq }) {
    if (error) return errorText(error);
    if (isMissing) return 'There is no such room yet.';
    if (isJoined === undefined) {
      return this.#rooms.isOpen ? 'Loading…' : 'The room is shown when there is a connection.';
    }
    if (lastSeq === 0) return 'You are not in this room.';
    return `${count(members, 'member')} · ${count(lastSeq, 'entry', 'entries')}`;
  }
}
