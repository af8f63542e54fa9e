// Writes and reads record batches with Kafka's own classes; see README.md in this folder.
//
//   java -cp CLASSPATH Vectors.java write DIR       writes java-*.bin into DIR
//   java -cp CLASSPATH Vectors.java read FILE...    checks each file's batch and prints a line for it and each record

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.zip.CRC32C;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.ControlRecordType;
import org.apache.kafka.common.record.EndTransactionMarker;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.MemoryRecordsBuilder;
import org.apache.kafka.common.record.MutableRecordBatch;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.TimestampType;

public class Vectors {
    static final long TIME = 1_700_000_000_000L;

    public static void main(String[] args) throws Exception {
        if (args[0].equals("write")) {
            write(Path.of(args[1]));
        } else {
            for (int i = 1; i < args.length; i++) read(Path.of(args[i]));
        }
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static void write(Path dir) throws Exception {
        write(dir, "none", Compression.NONE, TimestampType.CREATE_TIME, false, 2);
        write(dir, "gzip", Compression.gzip().build(), TimestampType.CREATE_TIME, false, 5000);
        write(dir, "snappy", Compression.snappy().build(), TimestampType.CREATE_TIME, false, 5000);
        write(dir, "lz4", Compression.lz4().build(), TimestampType.CREATE_TIME, false, 5000);
        write(dir, "zstd", Compression.zstd().build(), TimestampType.CREATE_TIME, false, 5000);
        write(dir, "log-append-time", Compression.NONE, TimestampType.LOG_APPEND_TIME, false, 2);
        write(dir, "transactional", Compression.NONE, TimestampType.CREATE_TIME, true, 2);
        marker(dir, "commit", ControlRecordType.COMMIT);
        marker(dir, "abort", ControlRecordType.ABORT);
    }

    static void write(Path dir, String name, Compression compression, TimestampType type, boolean transactional,
                      int repeats) throws Exception {
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(1 << 18), RecordBatch.CURRENT_MAGIC_VALUE,
            compression, type, 100L, TIME + 77, 42L, (short) 1, 7, transactional, 3);
        builder.append(TIME, bytes("k0"), bytes("value 0"), new Header[] {
            new RecordHeader("trace", bytes("1f")), new RecordHeader("empty", new byte[0]), new RecordHeader("null", (byte[]) null),
        });
        builder.append(TIME + 5, null, bytes("no key"));
        builder.append(TIME - 10, new byte[0], new byte[0]);
        builder.append(TIME + 3, bytes("k0"), null);
        builder.append(TIME + 1000, new byte[] {(byte) 0xff, 0}, bytes("0123456789abcdef".repeat(repeats)));
        save(dir, name, builder.build());
    }

    static void marker(Path dir, String name, ControlRecordType type) throws Exception {
        save(dir, name, MemoryRecords.withEndTransactionMarker(100L, TIME, 3, 42L, (short) 1,
            new EndTransactionMarker(type, 9)));
    }

    static void save(Path dir, String name, MemoryRecords records) throws Exception {
        byte[] out = new byte[records.sizeInBytes()];
        records.buffer().get(out);
        Files.write(dir.resolve("java-" + name + ".bin"), out);
    }

    static void read(Path file) throws Exception {
        MemoryRecords records = MemoryRecords.readableRecords(ByteBuffer.wrap(Files.readAllBytes(file)));
        for (MutableRecordBatch batch : records.batches()) {
            batch.ensureValid();
            System.out.printf("batch %s %d..%d epoch %d producer %d/%d/%d max %d transactional %b control %b%n",
                batch.compressionType().name, batch.baseOffset(), batch.lastOffset(), batch.partitionLeaderEpoch(),
                batch.producerId(), batch.producerEpoch(), batch.baseSequence(), batch.maxTimestamp(),
                batch.isTransactional(), batch.isControlBatch());
            for (Record record : batch) {
                StringBuilder line = new StringBuilder();
                line.append("record ").append(record.offset()).append(' ').append(record.timestamp());
                line.append(' ').append(show(record.key())).append(' ').append(show(record.value()));
                for (Header header : record.headers()) {
                    byte[] value = header.value();
                    line.append(' ').append(header.key()).append('=').append(show(value == null ? null : ByteBuffer.wrap(value)));
                }
                System.out.println(line);
            }
        }
    }

    static String show(ByteBuffer buffer) {
        if (buffer == null) return "null";
        byte[] raw = new byte[buffer.remaining()];
        buffer.get(raw);
        if (raw.length <= 16) return "[" + HexFormat.of().formatHex(raw) + "]";
        CRC32C crc = new CRC32C();
        crc.update(raw);
        return "[" + raw.length + " bytes, crc " + String.format("%08x", crc.getValue()) + "]";
    }
}
