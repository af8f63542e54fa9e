// IBM's sarama.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/IBM/sarama"

	. "logweir/clients/checks"
)

func main() { Main(Program{Check: run, Produce: produce, Consume: consume}) }

func config() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Producer.Idempotent, config.Net.MaxOpenRequests = true, 1
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.MaxWaitTime = 100 * time.Millisecond
	config.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	return config
}

func messages(topic string, partition int32, rows []Row) (all []*sarama.ProducerMessage) {
	for _, row := range rows {
		all = append(all, &sarama.ProducerMessage{Topic: topic, Partition: partition,
			Key: sarama.StringEncoder(row.Key), Value: sarama.StringEncoder(row.Value)})
	}
	return all
}

func send(address string, config *sarama.Config, all []*sarama.ProducerMessage) {
	producer := Must(sarama.NewSyncProducer([]string{address}, config))
	defer producer.Close()
	OK(producer.SendMessages(all))
}

func produce(address, topic string, rows []Row) {
	send(address, config(), messages(topic, 0, rows))
}

// handler is called as partitions come and go.
type handler struct {
	topic string
	own   func(partitions []int32, add bool)
	// record is called for each record, and done when there is a moment without one: then it is committed.
	record func(*sarama.ConsumerMessage)
	done   func()
}

func (h handler) Setup(session sarama.ConsumerGroupSession) error {
	h.own(session.Claims()[h.topic], true)
	return nil
}

func (h handler) Cleanup(session sarama.ConsumerGroupSession) error {
	h.own(session.Claims()[h.topic], false)
	return nil
}

func (h handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		h.record(message)
		session.MarkMessage(message, "")
		if len(claim.Messages()) == 0 {
			h.done()
			session.Commit()
		}
	}
	return nil
}

// join is a member until stop.
func join(stop context.Context, address, topic, group string, handler handler) {
	member := Must(sarama.NewConsumerGroup([]string{address}, group, config()))
	defer member.Close()
	for stop.Err() == nil {
		if err := member.Consume(stop, []string{topic}, handler); err != nil && stop.Err() == nil {
			// A broker that is away: what was not committed comes again.
			fmt.Fprintln(os.Stderr, err)
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func consume(stop context.Context, address, topic, group string) {
	output := NewOutput()
	record := func(message *sarama.ConsumerMessage) {
		output.Record(message.Partition, message.Offset, message.Key, message.Value)
	}
	join(stop, address, topic, group, handler{topic, output.Own, record, output.Flush})
}

// run is every check.
func run(address string) {
	admin := Must(sarama.NewClusterAdmin([]string{address}, config()))
	defer admin.Close()
	codecs := []sarama.CompressionCodec{sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy,
		sarama.CompressionLZ4, sarama.CompressionZSTD}
	for _, codec := range codecs {
		Check("codec-"+codec.String(), func() { checkCodec(address, topic(admin, codec.String(), 1), codec) })
	}
	Check("group-classic", func() { checkGroup(address, topic(admin, "group", Partitions)) })
	Check("admin-topics", func() { checkTopics(admin) })
	Check("admin-offsets", func() { checkOffsets(address, admin) })
}

func topic(admin sarama.ClusterAdmin, name string, partitions int32) string {
	name = Unique("sarama-" + name)
	OK(admin.CreateTopic(name, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1}, false))
	return name
}

func checkCodec(address, topic string, codec sarama.CompressionCodec) {
	config := config()
	config.Producer.Compression = codec
	config.Producer.Partitioner = sarama.NewManualPartitioner
	rows := Rows(1_500)
	send(address, config, messages(topic, 0, rows))
	for i, message := range read(address, topic, sarama.OffsetOldest, len(rows)) {
		Same("offset", message.Offset, int64(i))
		Same("record", Row{Key: string(message.Key), Value: string(message.Value)}, rows[i])
	}
}

func read(address, topic string, from int64, count int) (got []*sarama.ConsumerMessage) {
	consumer := Must(sarama.NewConsumer([]string{address}, config()))
	defer consumer.Close()
	partition := Must(consumer.ConsumePartition(topic, 0, from))
	defer partition.Close()
	for limit := time.After(Limit); len(got) < count; {
		select {
		case message := <-partition.Messages():
			got = append(got, message)
		case <-limit:
			panic(fmt.Sprintf("%d of %d records", len(got), count))
		}
	}
	return got
}

func checkGroup(address, topic string) {
	group, seen := Unique("sarama-group"), NewSeen()
	member := func(name string) (leave func()) {
		own := func(partitions []int32, add bool) {
			if add {
				seen.Own(name, len(partitions))
			}
		}
		record := func(message *sarama.ConsumerMessage) { seen.Add(message.Partition, message.Offset) }
		stop, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			join(stop, address, topic, group, handler{topic, own, record, func() {}})
		}()
		return func() { cancel(); <-done }
	}
	leaveFirst, leaveSecond := member("first"), member("second")
	Until("two partitions each", func() bool { return seen.Shared(2, "first", "second") })
	send(address, config(), messages(topic, 0, Rows(400)))
	Until("400 records", func() bool { return seen.Counts()[0] >= 400 })
	leaveFirst()
	leaveSecond()
	Same("records, and different ones", seen.Counts(), [2]int{400, 400})
	send(address, config(), messages(topic, 0, Rows(100)))
	leaveThird := member("third")
	Until("100 records", func() bool { return seen.Counts()[0] >= 500 })
	leaveThird()
	Same("records after the commits", seen.Counts(), [2]int{500, 500})
}

func checkTopics(admin sarama.ClusterAdmin) {
	topic := topic(admin, "admin", 1)
	OK(admin.CreatePartitions(topic, 3, nil, false))
	Until("3 partitions", func() bool { return len(Must(admin.DescribeTopics([]string{topic}))[0].Partitions) == 3 })
	value := "86400000"
	OK(admin.AlterConfig(sarama.TopicResource, topic, map[string]*string{"retention.ms": &value}, false))
	asked := sarama.ConfigResource{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"retention.ms"}}
	Until("the new setting", func() bool { return Must(admin.DescribeConfig(asked))[0].Value == value })
	OK(admin.DeleteTopic(topic))
	Until("no topic", func() bool { _, there := Must(admin.ListTopics())[topic]; return !there })
}

func checkOffsets(address string, admin sarama.ClusterAdmin) {
	topic := topic(admin, "offsets", 1)
	send(address, config(), messages(topic, 0, Rows(10)))
	OK(admin.DeleteRecords(topic, map[int32]int64{0: 6}))
	Same("oldest", read(address, topic, sarama.OffsetOldest, 1)[0].Offset, 6)
	group := Unique("sarama-offsets")
	client := Must(sarama.NewClient([]string{address}, config()))
	defer client.Close()
	offsets := Must(sarama.NewOffsetManagerFromClient(group, client))
	partition := Must(offsets.ManagePartition(topic, 0))
	partition.MarkOffset(8, "note")
	offsets.Commit()
	partition.AsyncClose()
	OK(offsets.Close())
	found := Must(admin.ListConsumerGroupOffsets(group, map[string][]int32{topic: {0}}))
	Same("committed", found.GetBlock(topic, 0).Offset, 8)
	_, listed := Must(admin.ListConsumerGroups())[group]
	Same("listed", listed, true)
	OK(admin.DeleteConsumerGroup(group))
}
