//! A bot that says again whatever others say in a room. With a server running:
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
        return Err("which URL, and which room?".into());
    };
    echo(&url, &room).await
}

/// Until the server says that it will not have it.
pub async fn echo(url: &str, room: &str) -> Result<(), Box<dyn Error>> {
    let (client, mut updates) = Client::start(Settings::new(url, "echo")?);
    client.join(room, Start::Last(0)).await?;
    while let Some(update) = updates.next().await {
        if let Update::Event(event) = update
            && event.user_id.as_deref() != Some("echo")
            && let Some(message) = event.message
        {
            // Waits for a place among the commands without an answer, and not for the answer.
            drop(client.post(room, &message).await?);
        }
    }
    Ok(())
}
