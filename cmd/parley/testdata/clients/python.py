"""A chat client on paho-mqtt; README.md says how it is driven."""
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

host, port, client_id, token, topic, version, qos = sys.argv[1:8]
transport = "websockets" if sys.argv[8:9] == ["ws"] else "tcp"
five, qos = version == "5", int(qos)
out = threading.Lock()


def say(line):
    with out:
        print(line, flush=True)


def connected(c, _, flags, code, *__):
    if code != 0:
        sys.exit(f"refused: {code}")
    say(f"connected {flags['session present']}")
    if not flags["session present"]:
        c.subscribe(topic, qos)


# By packet identifier: what was sent, and what was acknowledged before publish returned.
sent, early, lock = {}, set(), threading.Lock()


def published(_, __, mid):
    with lock:
        if mid in sent:
            say("acked " + sent.pop(mid))
        else:
            early.add(mid)


def publish(text):
    mid = c.publish(topic, text, qos).mid
    with lock:
        if mid in early:
            early.remove(mid)
            say("acked " + text)
        else:
            sent[mid] = text


args = dict(client_id=client_id, protocol=mqtt.MQTTv5 if five else mqtt.MQTTv311, transport=transport)
if not five:
    args["clean_session"] = False
if hasattr(mqtt, "CallbackAPIVersion"):  # paho-mqtt 2
    args["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION1
c = mqtt.Client(**args)
c.username_pw_set("whoever", token)
c.reconnect_delay_set(1, 1)
c.on_connect, c.on_publish = connected, published
c.on_subscribe = lambda *_: say("subscribed")
c.on_disconnect = lambda *_: say("down")
c.on_message = lambda _, __, m: say("message " + m.payload.decode())
if transport == "websockets":
    c.ws_set_options("/mqtt")
if five:
    props = Properties(PacketTypes.CONNECT)
    props.SessionExpiryInterval = 3600
    c.connect(host, int(port), 30, clean_start=False, properties=props)
else:
    c.connect(host, int(port), 30)
c.loop_start()
for line in sys.stdin:
    if line.startswith("send "):
        publish(line[5:].rstrip("\n"))
c.disconnect()
c.loop_stop()
