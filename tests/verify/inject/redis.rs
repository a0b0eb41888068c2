//! What is done to Redis.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::sleep;

use crate::fault::{Fault, Link, To};
use crate::harness::proxy::{Proxy, Way};
use crate::schedule::NODES;
use crate::site::Site;

/// The stream, by the nodes' default settings.
const STREAM: &str = "chat:events";
/// On each way.
const SLOW: Duration = Duration::from_millis(850);

pub async fn inject(site: &Site<'_>, fault: Fault, lasting: Duration) -> bool {
    let mut server = site.redis.lock().await;
    match fault {
        Fault::RedisKill => {
            server.kill();
            sleep(lasting).await;
            server.restart().await;
            return true;
        }
        Fault::RedisStop => {
            server.pause();
            sleep(lasting).await;
            server.resume();
            return true;
        }
        _ => {}
    }
    let Some(mut redis) = site.redis().await else { return false };
    let ask = async |redis: &mut MultiplexedConnection, command: &str| {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        for word in words {
            command.arg(word);
        }
        command.query_async::<i64>(redis).await.is_ok_and(|count| count > 0)
    };
    match fault {
        Fault::RedisFlush => {
            let had_stream = ask(&mut redis, &format!("EXISTS {STREAM}")).await;
            redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.is_ok() && had_stream
        }
        Fault::RedisUnsubscribe => ask(&mut redis, "CLIENT KILL TYPE pubsub").await,
        Fault::RedisTrim(len) => ask(&mut redis, &format!("XTRIM {STREAM} MAXLEN {len}")).await,
        Fault::RedisForget(node) => {
            let name = &site.nodes[node].name;
            ask(&mut redis, &format!("XGROUP DESTROY {STREAM} node:{name}")).await
        }
        other => unreachable!("{other} is not of Redis"),
    }
}

/// Every node's way to it is that long. It hits when each had something to say.
pub async fn slow(site: &Site<'_>, lasting: Duration) -> bool {
    let links: Vec<Link> = (0..NODES).map(|node| Link { node, to: To::Redis }).collect();
    let mut busy = Vec::new();
    for link in &links {
        busy.push(site.nodes[link.node].links[link.to as usize].lock().await);
    }
    let proxies: Vec<&Proxy> = links.iter().map(|link| site.proxy(*link)).collect();
    let delay_all = |delay: Duration| {
        for proxy in &proxies {
            proxy.delay(Way::ToServer, delay);
            proxy.delay(Way::ToClient, delay);
        }
    };
    let before: Vec<usize> = proxies.iter().map(|proxy| proxy.delayed()).collect();
    delay_all(SLOW);
    sleep(lasting).await;
    let has_hit = proxies.iter().zip(before).all(|(proxy, before)| proxy.delayed() > before);
    delay_all(Duration::ZERO);
    has_hit
}
