// All tests of the page and of the client, one after the other: they share nodes that they kill.
// `cargo test --test it page` starts them with a cluster; tests/it/page.rs says how.
import './client.test.mjs';
import './breaks.test.mjs';
import './words.test.mjs';
import './page.test.mjs';
import './people.test.mjs';
import './rooms.test.mjs';
import './reading.test.mjs';
import './offline.test.mjs';
import './looks.test.mjs';
