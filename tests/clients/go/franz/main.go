// franz-go.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	. "logweir/clients/checks"
)

var fromStart = kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())

func main() { Main(Program{Check: run, Produce: produce, Consume: consume}) }

func client(address string, more ...kgo.Opt) *kgo.Client {
	options := []kgo.Opt{kgo.SeedBrokers(address), kgo.FetchMaxWait(100 * time.Millisecond), fromStart}
	return Must(kgo.NewClient(append(options, more...)...))
}

// member commits only what it is told to.
func member(address, topic, group string, told func(partitions []int32, add bool)) *kgo.Client {
	changed := func(add bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			told(partitions[topic], add)
		}
	}
	return client(address, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.Balancers(kgo.RangeBalancer()), kgo.HeartbeatInterval(300*time.Millisecond),
		kgo.SessionTimeout(10*time.Second), kgo.OnPartitionsAssigned(changed(true)),
		kgo.OnPartitionsRevoked(changed(false)), kgo.OnPartitionsLost(changed(false)))
}

func send(client *kgo.Client, topic string, partition int32, rows []Row) {
	limit, stop := context.WithTimeout(context.Background(), Limit)
	defer stop()
	var records []*kgo.Record
	for _, row := range rows {
		key, value := []byte(row.Key), []byte(row.Value)
		records = append(records, &kgo.Record{Topic: topic, Partition: partition, Key: key, Value: value})
	}
	OK(client.ProduceSync(limit, records...).FirstErr())
}

// poll gives what is there within a moment.
func poll(client *kgo.Client) []*kgo.Record {
	moment, stop := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer stop()
	return client.PollFetches(moment).Records()
}

func produce(address, topic string, rows []Row) {
	client := client(address, kgo.ProducerLinger(5*time.Millisecond))
	defer client.Close()
	send(client, topic, 0, rows)
}

func consume(stop context.Context, address, topic, group string) {
	output := NewOutput()
	client := member(address, topic, group, output.Own)
	defer client.Close()
	for stop.Err() == nil {
		records := poll(client)
		for _, record := range records {
			output.Record(record.Partition, record.Offset, record.Key, record.Value)
		}
		output.Flush()
		if len(records) > 0 {
			limit, done := context.WithTimeout(context.Background(), 10*time.Second)
			if err := client.CommitRecords(limit, records...); err != nil {
				// A broker that is away: what was not committed comes again.
				fmt.Fprintln(os.Stderr, err)
			}
			done()
		}
	}
}

// run is every check.
func run(address string) {
	plain := client(address)
	defer plain.Close()
	admin := kadm.NewClient(plain)
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	for name, codec := range codecs {
		Check("codec-"+name, func() { checkCodec(address, topic(admin, name, 1), codec) })
	}
	Check("group-classic", func() { checkGroup(address, topic(admin, "group", Partitions)) })
	Check("admin-topics", func() { checkTopics(admin) })
	Check("admin-groups", func() { checkGroups(address, admin) })
	Check("admin-offsets", func() { checkOffsets(address, admin) })
	Check("transactions-are-refused", func() { checkTransactions(address, topic(admin, "transactions", 1)) })
}

func topic(admin *kadm.Client, name string, partitions int32) string {
	name = Unique("franz-" + name)
	Must(admin.CreateTopic(context.Background(), partitions, 1, nil, name))
	return name
}

func checkCodec(address, topic string, codec kgo.CompressionCodec) {
	producer := client(address, kgo.ProducerBatchCompression(codec), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer producer.Close()
	rows := Rows(1_500)
	send(producer, topic, 0, rows)
	reader := client(address, kgo.ConsumeTopics(topic))
	defer reader.Close()
	var got []*kgo.Record
	Until("every record", func() bool {
		got = append(got, poll(reader)...)
		return len(got) >= len(rows)
	})
	Same("records", len(got), len(rows))
	for i, record := range got {
		Same("offset", record.Offset, int64(i))
		Same("record", Row{Key: string(record.Key), Value: string(record.Value)}, rows[i])
	}
}

func checkGroup(address, topic string) {
	group, seen := Unique("franz-group"), NewSeen()
	join := func(name string) (leave func()) {
		owned, stop, done := 0, make(chan struct{}), make(chan struct{})
		client := member(address, topic, group, func(partitions []int32, add bool) {
			if !add {
				owned -= 2 * len(partitions)
			}
			owned += len(partitions)
			seen.Own(name, owned)
		})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					client.Close()
					return
				default:
				}
				records := poll(client)
				// What is seen is committed, so that a member may leave once all is seen.
				if err := client.CommitRecords(context.Background(), records...); err != nil {
					fmt.Println("commit:", err)
				}
				for _, record := range records {
					seen.Add(record.Partition, record.Offset)
				}
			}
		}()
		return func() { close(stop); <-done }
	}
	leaveFirst, leaveSecond := join("first"), join("second")
	Until("two partitions each", func() bool { return seen.Shared(2, "first", "second") })
	producer := client(address, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	defer producer.Close()
	send(producer, topic, 0, Rows(400))
	Until("400 records", func() bool { return seen.Counts()[0] >= 400 })
	leaveFirst()
	leaveSecond()
	Same("records, and different ones", seen.Counts(), [2]int{400, 400})
	send(producer, topic, 0, Rows(100))
	leaveThird := join("third")
	Until("100 records", func() bool { return seen.Counts()[0] >= 500 })
	leaveThird()
	Same("records after the commits", seen.Counts(), [2]int{500, 500})
}

func checkTopics(admin *kadm.Client) {
	all := context.Background()
	topic := topic(admin, "admin", 2)
	_, err := admin.CreateTopic(all, 1, 1, nil, topic)
	Same("created twice", errors.Is(err, kerr.TopicAlreadyExists), true)
	Must(admin.UpdatePartitions(all, 5, topic))
	Until("5 partitions", func() bool { return len(Must(admin.ListTopics(all, topic))[topic].Partitions) == 5 })
	value := "123456"
	set := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}
	OK(Must(admin.AlterTopicConfigs(all, set, topic))[0].Err)
	Until("the new setting", func() bool {
		for _, config := range Must(Must(admin.DescribeTopicConfigs(all, topic)).On(topic, nil)).Configs {
			if config.Key == "retention.ms" {
				return config.MaybeValue() == value
			}
		}
		return false
	})
	Must(admin.DeleteTopic(all, topic))
	Until("no topic", func() bool { return !Must(admin.ListTopics(all)).Has(topic) })
}

func checkGroups(address string, admin *kadm.Client) {
	all := context.Background()
	topic, group := topic(admin, "groups", 1), Unique("franz-groups")
	producer := client(address)
	defer producer.Close()
	send(producer, topic, 0, Rows(10))
	client := member(address, topic, group, func([]int32, bool) {})
	count := 0
	Until("10 records", func() bool { count += len(poll(client)); return count >= 10 })
	OK(client.CommitUncommittedOffsets(all))
	described := Must(admin.DescribeGroups(all, group))[group]
	Same("state", described.State, "Stable")
	Same("members", len(described.Members), 1)
	client.Close()
	Same("listed", Must(admin.ListGroups(all))[group].ProtocolType, "consumer")
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: topic, At: 4, Metadata: "note"})
	OK(Must(admin.CommitOffsets(all, group, offsets)).Error())
	found, _ := Must(admin.FetchOffsets(all, group)).Lookup(topic, 0)
	Same("committed", fmt.Sprint(found.At, found.Metadata), "4note")
	Same("lag", Must(admin.Lag(all, group))[group].Lag.Total(), int64(6))
	OK(Must(admin.DeleteGroup(all, group)).Err)
}

func checkOffsets(address string, admin *kadm.Client) {
	all := context.Background()
	topic, producer := topic(admin, "offsets", 1), client(address)
	defer producer.Close()
	for second := range 5 {
		at := time.UnixMilli(1_600_000_000_000 + int64(second)*1_000)
		OK(producer.ProduceSync(all, &kgo.Record{Topic: topic, Timestamp: at}).FirstErr())
	}
	at := func(offsets kadm.ListedOffsets, err error) int64 {
		offset, _ := Must(offsets, err).Lookup(topic, 0)
		OK(offset.Err)
		return offset.Offset
	}
	Same("start", at(admin.ListStartOffsets(all, topic)), 0)
	Same("end", at(admin.ListEndOffsets(all, topic)), 5)
	Same("time", at(admin.ListOffsetsAfterMilli(all, 1_600_000_001_500, topic)), 2)
	before := kadm.Offsets{}
	before.Add(kadm.Offset{Topic: topic, At: 3})
	deleted, _ := Must(admin.DeleteRecords(all, before)).Lookup(topic, 0)
	OK(deleted.Err)
	Same("start after", at(admin.ListStartOffsets(all, topic)), 3)
}

// checkTransactions: there are none yet, and the client must be told so at once, and for good.
func checkTransactions(address, topic string) {
	producer := client(address, kgo.TransactionalID(Unique("franz")))
	defer producer.Close()
	limit, stop := context.WithTimeout(context.Background(), Limit)
	defer stop()
	err := producer.BeginTransaction()
	if err == nil {
		err = producer.ProduceSync(limit, &kgo.Record{Topic: topic}).FirstErr()
	}
	Same("refused", err != nil, true)
	Same("given up at", limit.Err() == nil, true)
}
