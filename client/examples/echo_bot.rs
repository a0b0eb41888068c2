//! A bot that repeats what others say in a room. With a server running:
//!
//! ```text
//! cargo run -p verbatim-client --example echo_bot -- ws://127.0.0.1:8080/ws general
//! ```

use std::error::Error;

use verbatim_client::{Client, Settings, Start, Update};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(room)) = (arguments.next(), arguments.next()) else {
        return Err("usage: echo_bot URL ROOM".into());
    };
    echo(&url, &room).await
}

/// Runs until the server refuses the bot for good.
pub async fn echo(url: &str, room: &str) -> Result<(), Box<dyn Error>> {
    let (client, mut updates) = Client::start(Settings::new(url, "echo")?);
    client.join(room, Start::Last(0)).await?;
    while let Some(update) = updates.next().await {
        if let Update::Event(event) = update
            && event.user_id.as_deref() != Some("echo")
            && let Some(message) = event.message
        {
            // Waits for a slot for the command, not for its answer.
            drop(client.post(room, &message).await?);
        }
    }
    Ok(())
}
