//! The same for groups of the consumer protocol (KIP-848). Where the machine answers otherwise, it says why.

use super::*;

const CONSUMER: &str = include_str!("../recordings/consumer-4.1.2.jsonl");

const ITS_VERSION: &str = "the listener knows the version, and that an empty id is for version 0";
const JOINS_ANEW: &str = "who joins again says that it owns nothing: it is let in at once, not when its session has ended";
const OTHER_PARTITIONS: &str =
    "equally many stay where they were; which ones, Kafka's hash maps of random topic ids decide";
const TOPIC_EXISTS: &str = "Kafka looks topics up before it asks the group, as the service has to";
const EMPTY_IS_NONE: &str = "an empty id is none here, and who is no member may look";
const REFUSED_AT_ONCE: &str = "Kafka gives an id out first, and refuses the join with it";
const AS_IT_IS: &str =
    "Kafka tells of the group's former kind until the first generation is written";

/// Where we differ: the scenario, the number of its line (from 1), a part of our answer, and the reason.
const DIFFERENCES: &[(&str, usize, &str, &str)] = &[
    ("ids given out", 3, r#""epoch":2"#, ITS_VERSION),
    ("epochs", 15, r#""assigned":{"orders":[0,1]}"#, JOINS_ANEW),
    ("assignors", 4, r#"{"orders":[0,1,2]}"#, OTHER_PARTITIONS),
    ("assignors", 6, r#"{"orders":[0,1,2]}"#, OTHER_PARTITIONS),
    ("assignors", 8, r#"{"orders":[0,1,2]}"#, OTHER_PARTITIONS),
    ("assignors", 10, r#"{"orders":[0,1,2]}"#, OTHER_PARTITIONS),
    (
        "a static member joins again with its id",
        3,
        r#""orders":[0,1]"#,
        JOINS_ANEW,
    ),
    (
        "a static member joins again with its id",
        4,
        "null",
        JOINS_ANEW,
    ),
    ("commits", 17, r#""error":0"#, TOPIC_EXISTS),
    ("commits", 26, r#"["orders",[4,0]]"#, EMPTY_IS_NONE),
    ("commits", 27, r#"["nowhere",[4,0]]"#, TOPIC_EXISTS),
    (
        "classic, then consumer",
        18,
        r#""error":23"#,
        REFUSED_AT_ONCE,
    ),
    (
        "classic, then consumer",
        26,
        "CompletingRebalance",
        AS_IT_IS,
    ),
    ("classic, then consumer", 27, r#""error":69"#, AS_IT_IS),
];

/// A player that knows topics by their names.
struct ConsumerPlayer {
    player: Player,
    /// The number of the topic's id, and how many partitions it has.
    topics: BTreeMap<String, (u8, i32)>,
    next_topic: u8,
}

impl ConsumerPlayer {
    fn new() -> Self {
        let mut player = Player::new();
        player.harness = Harness::with(|config| {
            config.min_session_timeout = SECOND;
            config.consumer_session_timeout = 6 * SECOND;
            config.consumer_heartbeat_interval = SECOND;
        });
        let mut consumer = Self {
            player,
            topics: BTreeMap::new(),
            next_topic: 1,
        };
        consumer.make_topic("orders", 4);
        consumer.make_topic("payments", 2);
        consumer
    }

    fn make_topic(&mut self, name: &str, partitions: i32) {
        self.topics
            .insert(name.to_owned(), (self.next_topic, partitions));
        self.next_topic += 1;
        self.tell_topics();
    }

    fn tell_topics(&mut self) {
        let topics = self.topics.iter();
        let topics: Vec<_> = topics.map(|(name, (id, n))| (&**name, *id, *n)).collect();
        self.player.harness.set_topics(&topics);
    }

    fn delete_topic(&mut self, name: &str) {
        let (id, _) = self.topics.remove(name).expect("it was made");
        self.tell_topics();
        let deleted = vec![(name.into(), topic_id(id))];
        self.player
            .harness
            .ask(GroupRequest::TopicsDeleted(deleted));
    }

    fn id_of(&self, topic: &str) -> TopicId {
        self.topics
            .get(topic)
            .map_or(TopicId::ZERO, |(id, _)| topic_id(*id))
    }

    fn named(&self, assignment: &Assignment) -> Value {
        let name = |id: TopicId| {
            let found = self.topics.iter().find(|(_, (n, _))| topic_id(*n) == id);
            found.map_or("gone", |(name, _)| name)
        };
        let held = assignment.topics().map(|(topic, held)| {
            let held: Vec<i32> = held.iter().map(|p| p.get()).collect();
            (name(topic).to_owned(), json!(held))
        });
        Value::Object(held.collect())
    }

    fn owned(&self, line: &Value) -> Option<Assignment> {
        let topics = line["owned"].as_object()?;
        let held = topics.iter().flat_map(|(topic, held)| {
            let number = |p: &Value| i32::try_from(p.as_i64().unwrap()).unwrap();
            let partitions = held.as_array().unwrap().iter().map(number);
            partitions.map(|p| (self.id_of(topic), PartitionId::new(p)))
        });
        Some(held.collect())
    }

    fn beat(&mut self, line: &Value) -> Value {
        let word = |key: &str| line[key].as_str().map(Arc::from);
        let names = line["topics"].as_array();
        let request = ConsumerHeartbeat {
            instance_id: word("instance"),
            rack_id: word("rack"),
            rebalance_timeout: (int(line, "rebalance") >= 0).then(|| millis(line, "rebalance")),
            topic_names: names
                .map(|names| names.iter().map(|n| n.as_str().unwrap().into()).collect()),
            topic_regex: word("regex"),
            server_assignor: word("assignor"),
            owned: self.owned(line),
            ..next_beat(
                &self.player.group,
                &self.player.id(text(line, "member")),
                int(line, "epoch"),
            )
        };
        match self.player.harness.beat(request) {
            Err(code) => json!({"error": code.code()}),
            Ok(answer) => {
                let recorded = text(&line["answer"], "member");
                let assigned = answer.assignment.as_ref().map(|a| self.named(a));
                let interval = u64::try_from(answer.heartbeat_interval.as_millis()).unwrap();
                json!({
                    "error": 0, "member": self.player.name(&answer.member_id, recorded),
                    "epoch": answer.member_epoch.get(), "interval": interval, "assigned": assigned,
                })
            }
        }
    }

    fn commit(&mut self, line: &Value) -> Value {
        let topic = text(line, "topic");
        let mut offset = new_offset(topic, 0, line["offset"].as_i64().unwrap());
        if int(line, "version") >= 10 {
            offset.topic_id = self.id_of(topic);
        }
        let request = CommitOffsets {
            group_id: self.player.group.as_str().into(),
            member_id: self.player.id(text(line, "member")),
            instance_id: line["instance"].as_str().map(InstanceId::from),
            generation_or_epoch: int(line, "epoch"),
            knows_epochs: int(line, "version") >= 9,
            retention: None,
            offsets: vec![offset],
        };
        let GroupAnswer::Commit(answer) = self.player.harness.ask(GroupRequest::Commit(request))
        else {
            panic!("a commit is answered");
        };
        let error = match &answer {
            Ok(partitions) => number(&partitions[0].result),
            Err(error) => error.code.code(),
        };
        json!({"error": error})
    }

    fn fetch(&mut self, line: &Value) -> Value {
        let one = vec![(text(line, "topic").into(), PartitionId::new(0))];
        let request = FetchGroup {
            group_id: self.player.group.as_str().into(),
            member_id: self.player.id(text(line, "member")),
            member_epoch: Epoch::new(int(line, "epoch")),
            partitions: (line["all"] == json!(false)).then_some(one),
            require_stable: false,
        };
        let request = GroupRequest::Fetch(vec![request]);
        let GroupAnswer::Fetch(mut groups) = self.player.harness.ask(request) else {
            panic!("a fetch is answered");
        };
        let result = groups.remove(0).result;
        let error = number(&result);
        let offset = |fetched: FetchedOffset| {
            let offset = fetched.committed.map_or(-1, |c| c.offset.get());
            json!([&*fetched.topic, [offset, 0]])
        };
        let offsets: Vec<Value> = result.into_iter().flatten().map(offset).collect();
        json!({"error": error, "offsets": offsets})
    }

    fn describe(&mut self) -> Value {
        let request = GroupRequest::DescribeConsumer(vec![self.player.group.as_str().into()]);
        let GroupAnswer::DescribeConsumer(mut all) = self.player.harness.ask(request) else {
            panic!("a description is answered");
        };
        let group = match all.remove(0).1 {
            Ok(group) => group,
            Err(error) => return json!({"error": error.code.code()}),
        };
        let mut members = Vec::new();
        for m in group.members {
            let topics: Vec<&str> = m.topic_names.iter().map(|name| &**name).collect();
            members.push(json!({
                "member": self.player.name(&m.member_id, ""), "instance": m.instance_id.as_deref(),
                "rack": m.rack_id.as_deref(), "epoch": m.epoch.get(), "topics": topics,
                "regex": m.topic_regex.as_deref(), "assigned": self.named(&m.assignment),
                "target": self.named(&m.target),
            }));
        }
        json!({
            "error": 0, "state": group.state, "epoch": group.epoch.get(),
            "made_for": group.assignment_epoch.get(), "assignor": group.assignor, "members": members,
        })
    }

    fn list(&mut self, line: &Value) -> Value {
        let words = |key: &str| {
            let words = line[key].as_array().unwrap().iter();
            words.map(|word| word.as_str().unwrap().into()).collect()
        };
        let (states, types) = (words("states"), words("types"));
        let request = GroupRequest::List(ListGroups { states, types });
        let GroupAnswer::List(groups) = self.player.harness.ask(request) else {
            panic!("a list is answered");
        };
        let mine = groups.iter().find(|g| *g.group_id == *self.player.group);
        let mine = mine.map(|g| json!([&*g.protocol_type, g.state, g.group_type]));
        json!({"error": 0, "group": mine})
    }

    fn play(&mut self, line: &Value) -> Value {
        match text(line, "op") {
            "beat" => self.beat(line),
            "commit_offset" => self.commit(line),
            "fetch_offsets" => self.fetch(line),
            "describe_consumer" => self.describe(),
            "list" => self.list(line),
            "make_topic" | "grow_topic" => {
                let (name, partitions) = (text(line, "topic"), int(line, "partitions"));
                match self.topics.get_mut(name) {
                    Some(topic) => {
                        topic.1 = partitions;
                        self.tell_topics();
                    }
                    None => self.make_topic(name, partitions),
                }
                Value::Null
            }
            "delete_topic" => {
                self.delete_topic("orders");
                Value::Null
            }
            _ => self.player.play(line),
        }
    }
}

#[test]
fn the_consumer_protocol_answers_as_kafka_did() {
    let mut player = ConsumerPlayer::new();
    let (mut scenario, mut number, mut count) = (String::new(), 0, 0);
    let mut differences = DIFFERENCES.iter();
    let mut wrong = Vec::new();
    for line in CONSUMER.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if let Some(name) = line["scenario"].as_str() {
            (scenario, number) = (name.to_owned(), 0);
            player.player.group = format!("group {name}");
            player.player.ids.clear();
            continue;
        }
        (number, count) = (number + 1, count + 1);
        let answer = player.play(&line);
        if answer == line["answer"] {
            continue;
        }
        let known = differences.next();
        if !known.is_some_and(|(s, n, ours, _)| {
            (*s, *n) == (&*scenario, number) && answer.to_string().contains(ours)
        }) {
            wrong.push(format!(
                "line {number} of {scenario:?}: {answer}\n    {line}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(differences.next(), None, "it does not differ any more");
    assert!(count > 200, "{count} requests");
    player.player.harness.check_replay();
}
