//! The broker that client commands talk to.

use anyhow::Context as _;
use logweir_client::Client;

/// Which broker.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// The broker's gRPC listener
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "LOGWEIR_SERVER",
        default_value = "127.0.0.1:9093",
        help_heading = "Connection"
    )]
    pub(super) server: String,
}

impl ServerArgs {
    /// Connects, and says which broker could not be reached.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        let client = Client::builder().client_id("logweir-cli").connect(&self.server).await;
        client.context("cannot reach the broker (--server HOST:PORT or LOGWEIR_SERVER says which)")
    }
}
