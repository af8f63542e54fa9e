//! The broker that client commands talk to.

use anyhow::Context as _;
use logweir_client::Client;
use tracing_subscriber::EnvFilter;

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
    /// Connects, and says which broker could not be reached. What the client has to say later, such as that a
    /// connection was lost and is made anew, goes to standard error.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("off,logweir_client=warn"))
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .try_init();
        let client = Client::builder()
            .client_id("logweir-cli")
            .connect(&self.server)
            .await;
        client.context("cannot reach the broker (--server HOST:PORT or LOGWEIR_SERVER says which)")
    }
}
