// A chat client on MQTT.js; ../README.md says how it is driven.
import mqtt from 'mqtt';
import { createInterface } from 'node:readline';

const [host, port, clientId, token, topic, version, qosText, transport] = process.argv.slice(2);
const qos = Number(qosText);
const say = (line) => process.stdout.write(line + '\n');
const fail = (what) => { console.error(what); process.exit(1); };

const client = mqtt.connect(transport === 'ws' ? `ws://${host}:${port}/mqtt` : `mqtt://${host}:${port}`, {
  clientId, username: 'whoever', password: token, clean: false, protocolVersion: Number(version),
  properties: version === '5' ? { sessionExpiryInterval: 3600 } : undefined,
  keepalive: 30, reconnectPeriod: 100, resubscribe: false,
});
let up = false;
client.on('connect', (ack) => {
  up = true;
  say(`connected ${ack.sessionPresent ? 1 : 0}`);
  if (!ack.sessionPresent) {
    client.subscribe(topic, { qos }, (err) => (err ? fail(`subscribe: ${err}`) : say('subscribed')));
  }
});
client.on('close', () => {
  if (up) say('down');
  up = false;
});
client.on('error', (err) => { if (err.code > 0) fail(`refused: ${err}`); }); // others are followed by another attempt
client.on('message', (_, payload) => say(`message ${payload}`));

const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  if (!line.startsWith('send ')) return;
  const text = line.slice(5);
  client.publish(topic, text, { qos }, (err) => { if (!err) say(`acked ${text}`); });
});
lines.on('close', () => client.end(false, {}, () => process.exit(0)));
