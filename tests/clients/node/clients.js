// kafkajs, whose request versions are old and fixed in its source.
//
//     node clients.js check ADDRESS                every check
//     node clients.js produce ADDRESS TOPIC        sends lines of standard input: KEY, tab, VALUE
//     node clients.js consume ADDRESS TOPIC GROUP  a member of a group until standard input closes
const assert = require('node:assert')
const crypto = require('node:crypto')
const readline = require('node:readline')

process.env.KAFKAJS_NO_PARTITIONER_WARNING = '1'
const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = require('kafkajs')
const snappy = require('kafkajs-snappy')
const lz4 = require('lz4-napi')
const { ZstdCodec } = require('zstd-codec')

const PARTITIONS = 4
const SECONDS = 30
const [, , command, address, givenTopic, givenGroup] = process.argv
const kafka = new Kafka({ clientId: 'logweir-clients', brokers: [address], logLevel: logLevel.NOTHING })
let failed = false

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
const unique = name => `kafkajs-${name}-${crypto.randomBytes(6).toString('hex')}`

async function until(what, condition) {
  for (const end = Date.now() + SECONDS * 1000; !(await condition()); await sleep(20)) {
    assert(Date.now() < end, `not within ${SECONDS} s: ${what}`)
  }
}

// kafkajs brings gzip; the others are given to it.
async function addCodecs() {
  CompressionCodecs[CompressionTypes.Snappy] = snappy
  CompressionCodecs[CompressionTypes.LZ4] = () => ({
    compress: encoder => lz4.compressFrame(encoder.buffer),
    decompress: buffer => lz4.decompressFrame(buffer),
  })
  const zstd = await new Promise(resolve => ZstdCodec.run(loaded => resolve(new loaded.Streaming())))
  CompressionCodecs[CompressionTypes.ZSTD] = () => ({
    compress: async encoder => Buffer.from(zstd.compress(encoder.buffer)),
    decompress: async buffer => Buffer.from(zstd.decompress(buffer)),
  })
}

async function check(name, body) {
  try {
    await body()
    console.log('ok', name)
  } catch (error) {
    failed = true
    console.log(`FAIL ${name}: ${error.stack.split('\n').join(' ')}`)
  }
}

async function withProducer(body) {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  await body(producer)
  await producer.disconnect()
}

const send = (topic, messages, compression = CompressionTypes.None) =>
  withProducer(producer => producer.send({ topic, messages, compression, acks: -1 }))

// A member of a group that calls `each` for every batch, and commits after it; `told` gets what it owns.
async function join(topic, groupId, each, told = () => {}) {
  const timing = { sessionTimeout: 10000, rebalanceTimeout: 10000, heartbeatInterval: 300, maxWaitTimeInMs: 100 }
  const member = kafka.consumer({ groupId, ...timing })
  member.on(member.events.GROUP_JOIN, event => told(event.payload.memberAssignment[topic] || []))
  member.on(member.events.REBALANCING, () => told([]))
  await member.connect()
  await member.subscribe({ topic, fromBeginning: true })
  const eachBatch = async ({ batch, resolveOffset, commitOffsetsIfNecessary, uncommittedOffsets }) => {
    each(batch.partition, batch.messages)
    resolveOffset(batch.lastOffset())
    await commitOffsetsIfNecessary(uncommittedOffsets())
  }
  await member.run({ autoCommit: true, eachBatchAutoResolve: false, eachBatch })
  return member
}

class Checks {
  admin = kafka.admin()

  async topic(name, numPartitions = 1) {
    const topic = unique(name)
    await this.admin.createTopics({ topics: [{ topic, numPartitions }], waitForLeaders: true })
    return topic
  }

  async codec(name, compression) {
    const topic = await this.topic(name)
    const sent = [...Array(500).keys()].map(i => ({
      key: i % 7 === 0 ? null : `key-${i % 50}`,
      value: i % 101 === 100 ? null : `${i} ${'v'.repeat(i % 900)}`,
      headers: { number: `${i}` },
      partition: 0,
    }))
    await send(topic, sent, compression)
    const got = []
    const member = await join(topic, unique('read'), (_, messages) => got.push(...messages))
    await until('every record', () => got.length >= sent.length)
    await member.disconnect()
    const text = bytes => bytes && bytes.toString()
    const plain = m => [text(m.key), text(m.value), text(m.headers.number)]
    assert.deepStrictEqual(got.map(plain), sent.map(plain))
    assert.deepStrictEqual(got.map(m => Number(m.offset)), [...sent.keys()])
  }

  async group() {
    const topic = await this.topic('group', PARTITIONS)
    const group = unique('group')
    const seen = []
    const owned = { first: [], second: [] }
    const each = (partition, messages) => seen.push(...messages.map(m => `${partition}@${m.offset}`))
    const members = ['first', 'second'].map(name => join(topic, group, each, own => (owned[name] = own)))
    const [first, second] = await Promise.all(members)
    await until('two partitions each', () => owned.first.length === 2 && owned.second.length === 2)
    const described = (await this.admin.describeGroups([group])).groups[0]
    assert.deepStrictEqual([described.state, described.members.length], ['Stable', 2])
    const rows = [...Array(400).keys()].map(i => ({ key: `${i}`, value: `${i}` }))
    await send(topic, rows)
    await until('400 records', () => seen.length >= 400)
    await Promise.all([first.disconnect(), second.disconnect()])
    assert.deepStrictEqual([seen.length, new Set(seen).size], [400, 400])
    await send(topic, rows.slice(0, 100))
    const third = await join(topic, group, each)
    await until('100 records', () => seen.length >= 500)
    await third.disconnect()
    assert.strictEqual(new Set(seen).size, 500)
  }

  async topics() {
    const topic = await this.topic('admin')
    assert.strictEqual(await this.admin.createTopics({ topics: [{ topic }] }), false, 'created twice')
    await this.admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] })
    const found = async () => (await this.admin.fetchTopicMetadata({ topics: [topic] })).topics[0]
    await until('3 partitions', async () => (await found()).partitions.length === 3)
    const resource = { type: ConfigResourceTypes.TOPIC, name: topic }
    const configEntries = [{ name: 'retention.ms', value: '1234567' }]
    await this.admin.alterConfigs({ resources: [{ ...resource, configEntries }] })
    const asked = { resources: [{ ...resource, configNames: ['retention.ms'] }] }
    await until('the new setting', async () => {
      const described = await this.admin.describeConfigs(asked)
      return described.resources[0].configEntries[0].configValue === '1234567'
    })
    await this.admin.deleteTopics({ topics: [topic] })
    await until('no topic', async () => !(await this.admin.listTopics()).includes(topic))
  }

  async offsets() {
    const topic = await this.topic('offsets')
    const groupId = unique('offsets')
    const at = second => ({ value: 'v', timestamp: `${1600000000000 + second * 1000}` })
    await send(topic, [...Array(5).keys()].map(at))
    const [ends] = await this.admin.fetchTopicOffsets(topic)
    assert.deepStrictEqual([ends.low, ends.high], ['0', '5'])
    const [timed] = await this.admin.fetchTopicOffsetsByTimestamp(topic, 1600000001500)
    assert.strictEqual(timed.offset, '2')
    await this.admin.setOffsets({ groupId, topic, partitions: [{ partition: 0, offset: '2' }] })
    const [committed] = await this.admin.fetchOffsets({ groupId, topics: [topic] })
    assert.strictEqual(committed.partitions[0].offset, '2')
    const listed = async () => (await this.admin.listGroups()).groups.some(g => g.groupId === groupId)
    assert(await listed(), 'not listed')
    await this.admin.deleteGroups([groupId])
    assert(!(await listed()), 'still listed')
    await this.admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '3' }] })
    assert.strictEqual((await this.admin.fetchTopicOffsets(topic))[0].low, '3')
  }

  // There are none yet, and the client must be told so at once, and for good.
  async transactions() {
    const settings = { transactionalId: unique('transactions'), idempotent: true, maxInFlightRequests: 1 }
    const producer = kafka.producer(settings)
    await assert.rejects(async () => {
      await producer.connect()
      await producer.transaction()
    })
    await producer.disconnect()
  }

  async run() {
    await this.admin.connect()
    for (const [name, type] of Object.entries(CompressionTypes)) {
      await check(`codec-${name.toLowerCase()}`, () => this.codec(name, type))
    }
    await check('group-classic', () => this.group())
    await check('admin-topics', () => this.topics())
    await check('offsets-and-groups', () => this.offsets())
    await check('transactions-are-refused', () => this.transactions())
    await this.admin.disconnect()
  }
}

async function produce() {
  const messages = []
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const tab = line.indexOf('\t')
    messages.push({ key: line.slice(0, tab), value: line.slice(tab + 1) })
  }
  await withProducer(async producer => {
    for (let at = 0; at < messages.length; at += 500) {
      await producer.send({ topic: givenTopic, messages: messages.slice(at, at + 500), acks: -1 })
    }
  })
}

async function consume() {
  const closed = new Promise(resolve => process.stdin.on('close', resolve).resume())
  const tell = (partition, messages) => {
    const line = m => `${partition}\t${m.offset}\t${m.key || ''}\t${m.value || ''}\n`
    process.stdout.write(messages.map(line).join(''))
  }
  const own = partitions => process.stdout.write(`=\t${partitions.join(',')}\n`)
  const member = await join(givenTopic, givenGroup, tell, own)
  await closed
  await member.disconnect()
}

async function main() {
  await addCodecs()
  await { check: () => new Checks().run(), produce, consume }[command]()
}

main().then(
  () => process.exit(failed ? 1 : 0),
  error => {
    console.error(error)
    process.exit(1)
  },
)
