/* A chat client on libmosquitto; README.md says how it is driven. */
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *topic;
static int qos;
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static char *sent[65536]; /* mu guards: by packet identifier, until acknowledged */

static void connected(struct mosquitto *m, void *_, int code, int flags, const mosquitto_property *p) {
	if (code != 0) {
		fprintf(stderr, "refused: %d\n", code);
		exit(1);
	}
	printf("connected %d\n", flags & 1);
	if (!(flags & 1))
		mosquitto_subscribe(m, NULL, topic, qos);
}

static void subscribed(struct mosquitto *m, void *_, int id, int n, const int *granted) { puts("subscribed"); }

static void disconnected(struct mosquitto *m, void *_, int code) { puts("down"); }

static void published(struct mosquitto *m, void *_, int id) {
	pthread_mutex_lock(&mu);
	if (sent[id]) {
		printf("acked %s\n", sent[id]);
		free(sent[id]);
		sent[id] = NULL;
	}
	pthread_mutex_unlock(&mu);
}

static void received(struct mosquitto *m, void *_, const struct mosquitto_message *msg) {
	printf("message %.*s\n", msg->payloadlen, (char *)msg->payload);
}

int main(int argc, char **argv) {
	char line[4096];
	if (argc < 8)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	topic = argv[5];
	qos = atoi(argv[7]);
	int five = atoi(argv[6]) == 5;

	mosquitto_lib_init();
	struct mosquitto *m = mosquitto_new(argv[3], false, NULL);
	mosquitto_int_option(m, MOSQ_OPT_PROTOCOL_VERSION, five ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311);
	mosquitto_username_pw_set(m, "whoever", argv[4]);
	mosquitto_reconnect_delay_set(m, 1, 1, false);
	mosquitto_connect_v5_callback_set(m, connected);
	mosquitto_subscribe_callback_set(m, subscribed);
	mosquitto_disconnect_callback_set(m, disconnected);
	mosquitto_publish_callback_set(m, published);
	mosquitto_message_callback_set(m, received);

	mosquitto_property *props = NULL;
	if (five)
		mosquitto_property_add_int32(&props, MQTT_PROP_SESSION_EXPIRY_INTERVAL, 3600);
	int err = mosquitto_connect_bind_v5(m, argv[1], atoi(argv[2]), 30, NULL, props);
	if (err) {
		fprintf(stderr, "connect: %s\n", mosquitto_strerror(err));
		return 1;
	}
	mosquitto_loop_start(m);
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (strncmp(line, "send ", 5))
			continue;
		int id = 0;
		pthread_mutex_lock(&mu); /* the acknowledgement must not be faster */
		err = mosquitto_publish(m, &id, topic, strlen(line + 5), line + 5, qos, false);
		if (err && err != MOSQ_ERR_NO_CONN) { /* without a connection it is kept, and sent later */
			fprintf(stderr, "publish: %s\n", mosquitto_strerror(err));
			return 1;
		}
		sent[id] = strdup(line + 5);
		pthread_mutex_unlock(&mu);
	}
	mosquitto_disconnect(m);
	mosquitto_loop_stop(m, false);
	return 0;
}
