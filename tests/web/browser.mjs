// A real browser, and pages in it that may not complain: an error on the console, an exception or
// a violation of the page's own Content-Security-Policy fails the test that was running.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import { after, afterEach } from 'node:test';
import { chromium } from 'playwright-core';
import { PATIENCE_MS } from './cluster.mjs';

/** Where browsers are; `CHROMIUM` names another. Debian's, Fedora's, Google's, macOS'. */
const PLACES = [
  process.env.CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Chromium.app/Contents/MacOS/Chromium',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  chromium.executablePath(),
];
/** Where screenshots are kept, to be looked at. */
const ARTEFACTS = process.env.VERBATIM_ARTEFACTS;
/** What is wrong with a broken connection the browser says by itself, and rightly. */
const EXPECTED = /WebSocket connection to .* failed|net::ERR_/;

const complaints = [];
const contexts = new Set();
let browser;

async function launch() {
  const executablePath = PLACES.find((place) => place && existsSync(place));
  assert.ok(executablePath, 'there is no Chromium: run `make deps`');
  mkdirSync(ARTEFACTS, { recursive: true });
  // Chromium's sandbox needs a user that is not root.
  const args = process.getuid() === 0 ? ['--no-sandbox'] : [];
  return chromium.launch({ executablePath, args });
}

afterEach(async () => {
  for (const context of contexts) await context.close();
  contexts.clear();
  assert.deepEqual(complaints.splice(0), [], 'the page complained');
});

after(() => browser?.close());

/** A browser profile of its own: its storage is shared by its pages and nobody else. */
export async function profile({ width = 1280, height = 800, scheme = 'light', ...more } = {}) {
  browser ??= await launch();
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: scheme,
    locale: 'en-GB',
    reducedMotion: 'reduce',
    ...more,
  });
  context.setDefaultTimeout(PATIENCE_MS);
  contexts.add(context);
  return context;
}

/** A page at that address and, with a name, beyond its welcome. */
export async function visit(context, address, { name, room } = {}) {
  const page = await context.newPage();
  page.on('console', (message) => {
    const isBad = ['error', 'warning'].includes(message.type());
    if (isBad && !EXPECTED.test(message.text())) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(String(error.stack)));
  await page.addInitScript(() => {
    // As an error on the console it is seen above.
    addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) => {
      console.error(`violates ${violatedDirective}: ${blockedURI}`);
    });
  });
  await page.goto(`http://${address}/${room ? `#/${encodeURIComponent(room)}` : ''}`);
  if (name) await enter(page, name);
  return page;
}

export async function enter(page, name) {
  await page.getByLabel('Your name', { exact: true }).fill(name);
  await page.keyboard.press('Enter');
  await page.locator('#app').waitFor();
}

/** Makes the room, as a person does: by typing its name into the search. */
export async function create(page, room) {
  await page.getByLabel('Find or create a room').fill(room);
  await page.getByRole('button', { name: `Create “${room}”` }).click();
  await page.getByRole('log', { name: `Messages in ${room}` }).waitFor();
}

export async function join(page, room) {
  await page.getByLabel('Find or create a room').fill(room);
  await page.locator(`[data-room="${room}"]`).click();
  await page.getByRole('button', { name: 'Join this room' }).click();
  await page.getByRole('log', { name: `Messages in ${room}` }).waitFor();
}

export async function write(page, text) {
  await page.locator('#message').fill(text);
  await page.keyboard.press('Enter');
}

/** The messages in the log, as the page shows them, in order. */
export function shown(page) {
  return page.locator('#events .text').allTextContents();
}

/** The seqs of the lines in the document. Many who come or go are one line. */
export function seqs(page) {
  return page.locator('#events').evaluate((events) => (
    [...events.querySelectorAll('[data-seq]')].flatMap(({ dataset: { seq, last } }) => (
      Array.from({ length: last - seq + 1 }, (_, place) => ({ seq: Number(seq) + place }))))));
}

export function pending(page) {
  return page.locator('#pending .text').allTextContents();
}

/** Looks until it is as wanted; the failure shows the last look. */
export async function until(look, wanted, limit_ms = PATIENCE_MS) {
  const deadline = Date.now() + limit_ms;
  for (;;) {
    const found = await look();
    try {
      return assert.deepEqual(found, wanted);
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
    await new Promise((resolve) => { setTimeout(resolve, 20); });
  }
}

export async function picture(page, name) {
  await page.screenshot({ path: path.join(ARTEFACTS, `${name}.png`) });
}
