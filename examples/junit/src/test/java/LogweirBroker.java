import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import org.junit.jupiter.api.extension.BeforeAllCallback;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ExtensionContext.Namespace;

/**
 * A broker for JUnit: started once for all test classes that name it, in memory, on ports of the system's choice.
 *
 * <p>It stops when this process ends, however it ends, because its standard input closes then. The program is {@code
 * logweir} on the path, or what the variable LOGWEIR names.
 */
public final class LogweirBroker implements BeforeAllCallback {
  private static final Duration START = Duration.ofSeconds(30);
  private static String address;

  /** What Kafka clients take as {@code bootstrap.servers}. */
  public static String address() {
    return address;
  }

  @Override
  public void beforeAll(ExtensionContext context) {
    var all = context.getRoot().getStore(Namespace.create(LogweirBroker.class));
    address = all.getOrComputeIfAbsent(Running.class, key -> new Running(), Running.class).address;
  }

  /** JUnit closes it after the last test. */
  private static final class Running implements AutoCloseable {
    private final Path folder;
    private final Process process;
    private final String address;

    Running() {
      try {
        folder = Files.createTempDirectory("logweir");
        var ready = folder.resolve("ready.json");
        process = start(ready, folder.resolve("log"));
        for (var end = Instant.now().plus(START); !Files.exists(ready); Thread.sleep(5)) {
          if (!process.isAlive() || Instant.now().isAfter(end)) {
            throw new IllegalStateException(Files.readString(folder.resolve("log")));
          }
        }
        address = new ObjectMapper().readTree(ready.toFile()).get("kafka").asText();
      } catch (IOException | InterruptedException error) {
        throw new IllegalStateException("the broker did not start", error);
      }
    }

    private static Process start(Path ready, Path log) throws IOException {
      String program = System.getenv().getOrDefault("LOGWEIR", "logweir");
      // A new group need not wait three seconds for members that are not to come.
      var command =
          new ProcessBuilder(program, "serve", "--in-memory", "--kafka", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
              "--http", "off", "--ready-file", ready.toString(), "--exit-with-parent",
              "--set", "groups.initial_rebalance_delay_ms=0");
      return command.redirectOutput(ProcessBuilder.Redirect.DISCARD).redirectError(log.toFile()).start();
    }

    @Override
    public void close() throws Exception {
      process.getOutputStream().close();
      process.waitFor();
      // The broker has taken its ready file away.
      Files.delete(folder.resolve("log"));
      Files.delete(folder);
    }
  }
}
