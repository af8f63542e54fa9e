package orders

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Tests of a program that uses a Kafka client; nothing in it knows of Logweir but its address.

func connect(t *testing.T, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append(options, kgo.SeedBrokers(address), kgo.AllowAutoTopicCreation())...)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func write(t *testing.T, topic string, states ...string) {
	t.Helper()
	client := connect(t)
	defer client.Close()
	for _, state := range states {
		record := &kgo.Record{Topic: topic, Key: []byte("7"), Value: []byte(state)}
		if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// read gives the next so many states of the group, which then goes on behind them.
func read(t *testing.T, topic string, count int) (states []string) {
	t.Helper()
	client := connect(t, kgo.ConsumerGroup("billing-"+topic), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.Close()
	for len(states) < count {
		fetched := client.PollRecords(t.Context(), count-len(states))
		if err := fetched.Err(); err != nil {
			t.Fatal(err)
		}
		for _, record := range fetched.Records() {
			states = append(states, string(record.Value))
		}
	}
	if err := client.CommitUncommittedOffsets(context.Background()); err != nil {
		t.Fatal(err)
	}
	return states
}

func TestTheStatesOfAnOrderComeInOrder(t *testing.T) {
	var sent []string
	for number := range 100 {
		sent = append(sent, fmt.Sprintf("state-%d", number))
	}
	write(t, t.Name(), sent...)
	if got := read(t, t.Name(), 100); !reflect.DeepEqual(got, sent) {
		t.Fatalf("got %v", got)
	}
}

func TestAGroupGoesOnWhereItStopped(t *testing.T) {
	write(t, t.Name(), "paid", "shipped")
	for _, wanted := range []string{"paid", "shipped"} {
		if got := read(t, t.Name(), 1); got[0] != wanted {
			t.Fatalf("got %v, wanted %s", got, wanted)
		}
	}
}
