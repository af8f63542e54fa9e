//! Kafka's error codes, with the question every caller asks: may I send this again?
//!
//! One table for all front ends. Numbers and retriability are Kafka's
//! (`org.apache.kafka.common.protocol.Errors`); codes that Logweir never sends are left out.

use std::fmt;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $retriable:literal;)*) => {
        /// An error of the Kafka protocol, or [`ErrorCode::None`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// Every code, in ascending order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> i16 {
                match self { $(Self::$variant => $code,)* }
            }

            /// Kafka's name, such as `NOT_LEADER_OR_FOLLOWER`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether the same request may succeed later, so that a client should send it again.
            #[must_use]
            pub const fn is_retriable(self) -> bool {
                match self { $(Self::$variant => $retriable,)* }
            }

            /// The error of a number; `None` if the number is not in the table.
            #[must_use]
            pub const fn from_code(code: i16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

error_codes! {
    /// The server met an error it has no code for.
    UnknownServerError = -1, "UNKNOWN_SERVER_ERROR", false;
    /// No error.
    None = 0, "NONE", false;
    /// The fetch offset lies outside of the log.
    OffsetOutOfRange = 1, "OFFSET_OUT_OF_RANGE", false;
    /// A batch fails its checksum or is malformed.
    CorruptMessage = 2, "CORRUPT_MESSAGE", true;
    /// The topic or partition does not exist here.
    UnknownTopicOrPartition = 3, "UNKNOWN_TOPIC_OR_PARTITION", true;
    /// The partition has no leader at present.
    LeaderNotAvailable = 5, "LEADER_NOT_AVAILABLE", true;
    /// This broker does not lead (or hold) the partition.
    NotLeaderOrFollower = 6, "NOT_LEADER_OR_FOLLOWER", true;
    /// The request's time ran out; the write may have happened.
    RequestTimedOut = 7, "REQUEST_TIMED_OUT", true;
    /// The broker is not available.
    BrokerNotAvailable = 8, "BROKER_NOT_AVAILABLE", false;
    /// The replica is not available.
    ReplicaNotAvailable = 9, "REPLICA_NOT_AVAILABLE", true;
    /// A batch is larger than the topic's `max.message.bytes`.
    MessageTooLarge = 10, "MESSAGE_TOO_LARGE", false;
    /// Offset metadata is larger than allowed.
    OffsetMetadataTooLarge = 12, "OFFSET_METADATA_TOO_LARGE", false;
    /// The server ended the connection before an answer.
    NetworkException = 13, "NETWORK_EXCEPTION", true;
    /// The coordinator is still loading its state.
    CoordinatorLoadInProgress = 14, "COORDINATOR_LOAD_IN_PROGRESS", true;
    /// The coordinator is not available.
    CoordinatorNotAvailable = 15, "COORDINATOR_NOT_AVAILABLE", true;
    /// This broker is not the coordinator.
    NotCoordinator = 16, "NOT_COORDINATOR", true;
    /// The topic's name is not valid, or not one that clients may touch.
    InvalidTopicException = 17, "INVALID_TOPIC_EXCEPTION", false;
    /// The request holds more than the broker takes.
    RecordListTooLarge = 18, "RECORD_LIST_TOO_LARGE", false;
    /// Fewer replicas are in sync than the topic demands; nothing was written.
    NotEnoughReplicas = 19, "NOT_ENOUGH_REPLICAS", true;
    /// Written, but to fewer in-sync replicas than the topic demands.
    NotEnoughReplicasAfterAppend = 20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", true;
    /// acks is not 0, 1 or all (-1).
    InvalidRequiredAcks = 21, "INVALID_REQUIRED_ACKS", false;
    /// The member's generation is not the group's.
    IllegalGeneration = 22, "ILLEGAL_GENERATION", false;
    /// The member's protocols do not fit the group's.
    InconsistentGroupProtocol = 23, "INCONSISTENT_GROUP_PROTOCOL", false;
    /// The group id is not valid.
    InvalidGroupId = 24, "INVALID_GROUP_ID", false;
    /// The coordinator does not know the member.
    UnknownMemberId = 25, "UNKNOWN_MEMBER_ID", false;
    /// The session timeout is outside of the allowed range.
    InvalidSessionTimeout = 26, "INVALID_SESSION_TIMEOUT", false;
    /// The group is rebalancing; the member must join again.
    RebalanceInProgress = 27, "REBALANCE_IN_PROGRESS", false;
    /// The commit is larger than allowed.
    InvalidCommitOffsetSize = 28, "INVALID_COMMIT_OFFSET_SIZE", false;
    /// The principal may not do this to the topic.
    TopicAuthorizationFailed = 29, "TOPIC_AUTHORIZATION_FAILED", false;
    /// The principal may not do this to the group.
    GroupAuthorizationFailed = 30, "GROUP_AUTHORIZATION_FAILED", false;
    /// The principal may not do this to the cluster.
    ClusterAuthorizationFailed = 31, "CLUSTER_AUTHORIZATION_FAILED", false;
    /// The record's timestamp is outside of the allowed range.
    InvalidTimestamp = 32, "INVALID_TIMESTAMP", false;
    /// The request's version is not served.
    UnsupportedVersion = 35, "UNSUPPORTED_VERSION", false;
    /// The topic exists already.
    TopicAlreadyExists = 36, "TOPIC_ALREADY_EXISTS", false;
    /// The number of partitions is not valid.
    InvalidPartitions = 37, "INVALID_PARTITIONS", false;
    /// The replication factor is below 1 or above the number of brokers.
    InvalidReplicationFactor = 38, "INVALID_REPLICATION_FACTOR", false;
    /// The replica assignment is not valid.
    InvalidReplicaAssignment = 39, "INVALID_REPLICA_ASSIGNMENT", false;
    /// A setting is unknown or its value is not valid.
    InvalidConfig = 40, "INVALID_CONFIG", false;
    /// This broker is not the active controller.
    NotController = 41, "NOT_CONTROLLER", true;
    /// The request makes no sense.
    InvalidRequest = 42, "INVALID_REQUEST", false;
    /// The broker cannot store this message format.
    UnsupportedForMessageFormat = 43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", false;
    /// A policy forbids the request.
    PolicyViolation = 44, "POLICY_VIOLATION", false;
    /// A producer skipped a sequence number.
    OutOfOrderSequenceNumber = 45, "OUT_OF_ORDER_SEQUENCE_NUMBER", false;
    /// A producer repeated a batch too old to know its offset.
    DuplicateSequenceNumber = 46, "DUPLICATE_SEQUENCE_NUMBER", false;
    /// A newer instance of the producer has taken over.
    InvalidProducerEpoch = 47, "INVALID_PRODUCER_EPOCH", false;
    /// The transaction is in a state that forbids this.
    InvalidTxnState = 48, "INVALID_TXN_STATE", false;
    /// The producer id does not belong to the transactional id.
    InvalidProducerIdMapping = 49, "INVALID_PRODUCER_ID_MAPPING", false;
    /// The transaction timeout is larger than allowed.
    InvalidTransactionTimeout = 50, "INVALID_TRANSACTION_TIMEOUT", false;
    /// Another change of this transactional id is under way.
    ConcurrentTransactions = 51, "CONCURRENT_TRANSACTIONS", true;
    /// The coordinator that sent this was replaced.
    TransactionCoordinatorFenced = 52, "TRANSACTION_COORDINATOR_FENCED", false;
    /// The principal may not use the transactional id.
    TransactionalIdAuthorizationFailed = 53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", false;
    /// Security features are disabled.
    SecurityDisabled = 54, "SECURITY_DISABLED", false;
    /// An operation on the same resource is under way.
    OperationNotAttempted = 55, "OPERATION_NOT_ATTEMPTED", false;
    /// The disk failed; the log is offline until the broker restarts, or full until there is room.
    KafkaStorageError = 56, "KAFKA_STORAGE_ERROR", true;
    /// The log directory does not exist.
    LogDirNotFound = 57, "LOG_DIR_NOT_FOUND", false;
    /// The credentials are wrong.
    SaslAuthenticationFailed = 58, "SASL_AUTHENTICATION_FAILED", false;
    /// The broker has no state of this producer id.
    UnknownProducerId = 59, "UNKNOWN_PRODUCER_ID", false;
    /// The partitions are being reassigned.
    ReassignmentInProgress = 60, "REASSIGNMENT_IN_PROGRESS", false;
    /// The group still has members.
    NonEmptyGroup = 68, "NON_EMPTY_GROUP", false;
    /// The group does not exist.
    GroupIdNotFound = 69, "GROUP_ID_NOT_FOUND", false;
    /// The fetch session does not exist.
    FetchSessionIdNotFound = 70, "FETCH_SESSION_ID_NOT_FOUND", true;
    /// The fetch session's epoch is not the expected one.
    InvalidFetchSessionEpoch = 71, "INVALID_FETCH_SESSION_EPOCH", true;
    /// The listener does not exist on the leader.
    ListenerNotFound = 72, "LISTENER_NOT_FOUND", true;
    /// Topics cannot be deleted on this broker.
    TopicDeletionDisabled = 73, "TOPIC_DELETION_DISABLED", false;
    /// The leader epoch is older than the broker's.
    FencedLeaderEpoch = 74, "FENCED_LEADER_EPOCH", true;
    /// The leader epoch is newer than the broker's.
    UnknownLeaderEpoch = 75, "UNKNOWN_LEADER_EPOCH", true;
    /// The batch is compressed in a way that is not served.
    UnsupportedCompressionType = 76, "UNSUPPORTED_COMPRESSION_TYPE", false;
    /// The broker's registration was replaced.
    StaleBrokerEpoch = 77, "STALE_BROKER_EPOCH", false;
    /// The offset is not yet available; the high watermark has to catch up.
    OffsetNotAvailable = 78, "OFFSET_NOT_AVAILABLE", true;
    /// A member id is needed to join.
    MemberIdRequired = 79, "MEMBER_ID_REQUIRED", false;
    /// The preferred leader is not available.
    PreferredLeaderNotAvailable = 80, "PREFERRED_LEADER_NOT_AVAILABLE", true;
    /// The group has its maximum number of members.
    GroupMaxSizeReached = 81, "GROUP_MAX_SIZE_REACHED", false;
    /// Another member holds the group instance id.
    FencedInstanceId = 82, "FENCED_INSTANCE_ID", false;
    /// No eligible leader is available.
    EligibleLeadersNotAvailable = 83, "ELIGIBLE_LEADERS_NOT_AVAILABLE", true;
    /// The leader is already the wanted one.
    ElectionNotNeeded = 84, "ELECTION_NOT_NEEDED", true;
    /// No reassignment is under way.
    NoReassignmentInProgress = 85, "NO_REASSIGNMENT_IN_PROGRESS", false;
    /// The group is subscribed to the topic.
    GroupSubscribedToTopic = 86, "GROUP_SUBSCRIBED_TO_TOPIC", false;
    /// A record is not valid; nothing of its batch was written.
    InvalidRecord = 87, "INVALID_RECORD", false;
    /// Unstable offsets have to settle first.
    UnstableOffsetCommit = 88, "UNSTABLE_OFFSET_COMMIT", true;
    /// The quota is exceeded.
    ThrottlingQuotaExceeded = 89, "THROTTLING_QUOTA_EXCEEDED", true;
    /// A newer instance of the producer has fenced this one.
    ProducerFenced = 90, "PRODUCER_FENCED", false;
    /// The resource does not exist.
    ResourceNotFound = 91, "RESOURCE_NOT_FOUND", false;
    /// The resource exists already.
    DuplicateResource = 92, "DUPLICATE_RESOURCE", false;
    /// The updated state is not acceptable.
    UnacceptableCredential = 93, "UNACCEPTABLE_CREDENTIAL", false;
    /// The voter set is not the quorum's.
    InconsistentVoterSet = 94, "INCONSISTENT_VOTER_SET", false;
    /// The update's version is not valid.
    InvalidUpdateVersion = 95, "INVALID_UPDATE_VERSION", false;
    /// The topic id does not exist here.
    UnknownTopicId = 100, "UNKNOWN_TOPIC_ID", true;
    /// The broker's registration was not found.
    DuplicateBrokerRegistration = 101, "DUPLICATE_BROKER_REGISTRATION", false;
    /// The broker id is not registered.
    BrokerIdNotRegistered = 102, "BROKER_ID_NOT_REGISTERED", false;
    /// The topic id is not the one the broker has.
    InconsistentTopicId = 103, "INCONSISTENT_TOPIC_ID", true;
    /// The cluster id is not this cluster's.
    InconsistentClusterId = 104, "INCONSISTENT_CLUSTER_ID", false;
    /// The transactional id does not exist.
    TransactionalIdNotFound = 105, "TRANSACTIONAL_ID_NOT_FOUND", false;
    /// The fetch session uses topic ids that changed.
    FetchSessionTopicIdError = 106, "FETCH_SESSION_TOPIC_ID_ERROR", true;
    /// The replica is not eligible to join the in-sync set.
    IneligibleReplica = 107, "INELIGIBLE_REPLICA", false;
    /// The leader has changed to another replica.
    NewLeaderElected = 108, "NEW_LEADER_ELECTED", false;
    /// The member epoch is not the coordinator's (KIP-848).
    FencedMemberEpoch = 110, "FENCED_MEMBER_EPOCH", false;
    /// Another member holds the instance id (KIP-848).
    UnreleasedInstanceId = 111, "UNRELEASED_INSTANCE_ID", false;
    /// The assignor does not exist (KIP-848).
    UnsupportedAssignor = 112, "UNSUPPORTED_ASSIGNOR", false;
    /// The member epoch is stale (KIP-848).
    StaleMemberEpoch = 113, "STALE_MEMBER_EPOCH", false;
    /// Brokers were asked for where controllers listen, or the other way round (KIP-919).
    MismatchedEndpointType = 114, "MISMATCHED_ENDPOINT_TYPE", false;
    /// The regular expression cannot be read (KIP-848).
    InvalidRegularExpression = 128, "INVALID_REGULAR_EXPRESSION", false;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_finds_its_code_again_and_they_ascend() {
        for pair in ErrorCode::ALL.windows(2) {
            assert!(
                pair[0].code() < pair[1].code(),
                "{} before {}",
                pair[0],
                pair[1]
            );
        }
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(code.code()), Some(*code));
        }
        assert_eq!(ErrorCode::from_code(4), None);
    }

    #[test]
    fn retriability_is_kafkas() {
        for (code, retriable) in [
            (ErrorCode::NotLeaderOrFollower, true),
            (ErrorCode::KafkaStorageError, true),
            (ErrorCode::RequestTimedOut, true),
            (ErrorCode::MessageTooLarge, false),
            (ErrorCode::OutOfOrderSequenceNumber, false),
            (ErrorCode::InvalidProducerEpoch, false),
        ] {
            assert_eq!(code.is_retriable(), retriable, "{code}");
        }
    }
}
