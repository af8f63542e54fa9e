//! What Apache Kafka answered to the same requests, recorded by `tests/recordings/`: the machine answers the same.

mod consumer;

use serde_json::{Value, json};

use super::*;

const CLASSIC: &str = include_str!("recordings/classic-3.9.2.jsonl");

/// Plays a recording, with the member ids of either side under the names that the recording gives them.
struct Player {
    harness: Harness,
    group: String,
    /// Our ids by the recording's names.
    ids: BTreeMap<String, String>,
    calls: BTreeMap<String, CallId>,
}

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line[key].as_str().unwrap_or_default()
}

fn int(line: &Value, key: &str) -> i32 {
    i32::try_from(line[key].as_i64().unwrap_or(-1)).unwrap()
}

fn millis(line: &Value, key: &str) -> Duration {
    Duration::from_millis(line[key].as_u64().unwrap())
}

fn number<T>(result: &Result<T, GroupError>) -> i16 {
    code(result).code()
}

impl Player {
    fn new() -> Self {
        let mut harness = Harness::with(|config| config.min_session_timeout = SECOND);
        harness.set_topics(&[("orders", 1, 1)]);
        Self {
            harness,
            group: String::new(),
            ids: BTreeMap::new(),
            calls: BTreeMap::new(),
        }
    }

    fn id(&self, name: &str) -> MemberId {
        self.ids.get(name).map_or(name, String::as_str).into()
    }

    /// The recording's name of one of our ids; a new one gets the name that the recording has there.
    fn name(&mut self, id: &str, recorded: &str) -> String {
        if let Some((name, _)) = self.ids.iter().find(|(_, ours)| *ours == id) {
            return name.clone();
        }
        if recorded.starts_with('$') && !self.ids.contains_key(recorded) {
            self.ids.insert(recorded.to_owned(), id.to_owned());
            return recorded.to_owned();
        }
        id.to_owned()
    }

    fn join(&self, line: &Value) -> GroupRequest {
        let protocols = line["protocols"].as_array().unwrap().iter();
        let version = int(line, "version");
        GroupRequest::Join(JoinGroup {
            instance_id: line["instance"].as_str().map(InstanceId::from),
            session_timeout: millis(line, "session"),
            rebalance_timeout: millis(line, "rebalance"),
            protocol_type: text(line, "type").into(),
            protocols: protocols.map(|p| protocol(p.as_str().unwrap())).collect(),
            member_id_required: version >= 4,
            can_skip_assignment: version >= 9,
            ..join(&self.group, &self.id(text(line, "member")))
        })
    }

    fn joined(&mut self, call: CallId, recorded: &Value) -> Value {
        let JoinAnswer { member_id, result } =
            self.harness.take_join(call).expect("it is answered");
        let error = number(&result);
        let member = self.name(&member_id, text(recorded, "member"));
        let Ok(joined) = result else {
            return json!({"error": error, "generation": -1, "protocol": "", "member": member, "leader": "", "members": []});
        };
        let mut members: Vec<String> = joined
            .members
            .iter()
            .map(|m| self.name(&m.member_id, ""))
            .collect();
        // Whoever came last has no name yet where the leader is told of it first.
        if let Some(new) = members.iter_mut().find(|name| !name.starts_with('$')) {
            let names = recorded["members"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_str);
            let unused = names
                .filter(|name| !self.ids.contains_key(*name))
                .map(str::to_owned)
                .next();
            *new = self.name(&new.clone(), &unused.unwrap_or_default());
        }
        members.sort();
        json!({
            "error": error, "generation": joined.generation.get(),
            "protocol": joined.protocol.as_deref().unwrap_or_default(),
            "member": member, "leader": self.name(&joined.leader, ""), "members": members,
        })
    }

    fn sync(&self, line: &Value) -> GroupRequest {
        let shares = line["shares"].as_object().unwrap().iter();
        let byte = |share: &Value| u8::from_str_radix(share.as_str().unwrap(), 16).unwrap();
        GroupRequest::Sync(SyncGroup {
            group_id: self.group.as_str().into(),
            generation: Generation::new(int(line, "generation")),
            member_id: self.id(text(line, "member")),
            instance_id: line["instance"].as_str().map(InstanceId::from),
            protocol_type: None,
            protocol: None,
            assignments: shares
                .map(|(id, s)| (self.id(id), vec![byte(s)].into()))
                .collect(),
        })
    }

    fn synced(&mut self, call: CallId) -> Value {
        let answer = self.harness.take_sync(call).expect("it is answered");
        let error = answer.as_ref().err().map_or(0, |code| code.code());
        let assignment = answer.map(|synced| synced.assignment).unwrap_or_default();
        let hex: String = assignment.iter().map(|b| format!("{b:02x}")).collect();
        json!({"error": error, "assignment": hex})
    }

    fn leave(&mut self, line: &Value) -> Value {
        let leaving = |pair: &Value| LeavingMember {
            member_id: self.id(pair[0].as_str().unwrap()),
            instance_id: pair[1].as_str().map(InstanceId::from),
        };
        let members = line["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(leaving)
            .collect();
        let request = LeaveGroup {
            group_id: self.group.as_str().into(),
            members,
        };
        let GroupAnswer::Leave(left) = self.harness.ask(GroupRequest::Leave(request)) else {
            panic!("a leave is answered");
        };
        let errors: Vec<i16> = left.unwrap().iter().map(|m| number(&m.result)).collect();
        json!({"error": 0, "errors": errors})
    }

    fn commit(&mut self, line: &Value) -> Value {
        let mut offset = new_offset("orders", 0, line["offset"].as_i64().unwrap());
        offset.metadata = "x"
            .repeat(usize::try_from(int(line, "metadata")).unwrap())
            .into();
        let request = CommitOffsets {
            group_id: self.group.as_str().into(),
            member_id: self.id(text(line, "member")),
            instance_id: line["instance"].as_str().map(InstanceId::from),
            generation_or_epoch: int(line, "generation"),
            knows_epochs: false,
            retention: None,
            offsets: vec![offset],
        };
        let GroupAnswer::Commit(answer) = self.harness.ask(GroupRequest::Commit(request)) else {
            panic!("a commit is answered");
        };
        let error = match &answer {
            Ok(partitions) => number(&partitions[0].result),
            Err(error) => error.code.code(),
        };
        json!({"error": error})
    }

    fn describe(&mut self) -> Value {
        let request = GroupRequest::DescribeClassic(vec![self.group.as_str().into()]);
        let GroupAnswer::DescribeClassic(mut all) = self.harness.ask(request) else {
            panic!("a description is answered");
        };
        let group = all.remove(0).1;
        let hex = |bytes: &Bytes| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mut members: Vec<[String; 3]> = Vec::new();
        for m in &group.members {
            members.push([
                self.name(&m.member_id, ""),
                hex(&m.metadata),
                hex(&m.assignment),
            ]);
        }
        members.sort();
        json!({
            "error": 0, "state": group.state, "type": &*group.protocol_type,
            "protocol": &*group.protocol, "members": members,
        })
    }

    /// Asks what a line asks; what we answer, as the recording has it.
    fn play(&mut self, line: &Value) -> Value {
        let recorded = &line["answer"];
        match text(line, "op") {
            "join" => {
                let call = self.harness.send(self.join(line));
                self.joined(call, recorded)
            }
            "sync" => {
                let call = self.harness.send(self.sync(line));
                self.synced(call)
            }
            "heartbeat" => {
                let request = Heartbeat {
                    group_id: self.group.as_str().into(),
                    generation: Generation::new(int(line, "generation")),
                    member_id: self.id(text(line, "member")),
                    instance_id: line["instance"].as_str().map(InstanceId::from),
                };
                match self.harness.ask(GroupRequest::Heartbeat(request)) {
                    GroupAnswer::Heartbeat(answer) => json!({"error": number(&answer)}),
                    other => panic!("{other:?}"),
                }
            }
            "leave" => self.leave(line),
            "commit" => self.commit(line),
            "describe" => self.describe(),
            "fetch" => {
                let offset = self.harness.committed(&self.group).unwrap_or(-1);
                json!({"error": 0, "offset": offset})
            }
            "delete" => json!({"error": self.harness.delete_group(&self.group).code()}),
            _ => self.play_rest(line),
        }
    }

    fn play_rest(&mut self, line: &Value) -> Value {
        let name = text(line, "call").to_owned();
        match text(line, "op") {
            "send_join" => {
                let call = self.harness.send(self.join(line));
                self.calls.insert(name, call);
            }
            "send_sync" => {
                let call = self.harness.send(self.sync(line));
                self.calls.insert(name, call);
            }
            "take_join" => return self.joined(self.calls[&name], &line["answer"]),
            "take_sync" => return self.synced(self.calls[&name]),
            "wait" => self
                .harness
                .pass(Duration::from_secs(line["seconds"].as_u64().unwrap())),
            "delete_topic" => {
                self.harness.ask(GroupRequest::TopicsDeleted(vec![(
                    "orders".into(),
                    topic_id(1),
                )]));
            }
            "create_topic" => self.harness.set_topics(&[("orders", 9, 1)]),
            "delete_offsets" => {
                let partitions = vec![("orders".into(), PartitionId::new(0))];
                let request = DeleteOffsets {
                    group_id: self.group.as_str().into(),
                    partitions,
                    whole_topics: Vec::new(),
                };
                let error = match self.harness.ask(GroupRequest::DeleteOffsets(request)) {
                    GroupAnswer::DeleteOffsets(Ok(answers)) => number(&answers[0].result),
                    GroupAnswer::DeleteOffsets(Err(error)) => error.code.code(),
                    other => panic!("{other:?}"),
                };
                return json!({"error": error});
            }
            other => panic!("{other:?} is not known"),
        }
        Value::Null
    }
}

#[test]
fn the_classic_protocol_answers_as_kafka_did() {
    let mut player = Player::new();
    let mut scenario = String::new();
    let mut count = 0;
    for line in CLASSIC.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if let Some(name) = line["scenario"].as_str() {
            name.clone_into(&mut scenario);
            player.group = format!("group {name}");
            player.ids.clear();
            continue;
        }
        let answer = player.play(&line);
        assert_eq!(answer, line["answer"], "in {scenario:?}: {line}");
        count += 1;
    }
    assert!(count > 140, "{count} requests");
    player.harness.check_replay();
}
