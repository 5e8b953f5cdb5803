package store_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// Each rule of the oracle finds what breaks it, alone.
func TestVerify(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rule  string
		where string // in the words of this test: direct, group, none, or other (that of the statement)
		sql   string
		also  []string // rules that can't but be broken too
	}{
		{"seq", "group", `DELETE FROM events WHERE conversation_id = @group AND seq = 2`, nil},
		{"seq", "group", `UPDATE conversations SET last_seq = 4 WHERE id = @group`, []string{"last-event-at"}},
		{"seq", "group", `DELETE FROM events WHERE conversation_id = @group AND seq = 1`, nil},
		{"event-conversation", "other", `UPDATE events SET conversation_id = @other WHERE conversation_id = @group AND seq = 3`, []string{"seq", "last-event-at"}},
		{"event-id", "none", `UPDATE events SET id = (SELECT id FROM events WHERE conversation_id = @direct AND seq = 2) WHERE conversation_id = @group AND seq = 2`, nil},
		{"client-msg-id", "group", `DROP INDEX events_client_msg_id; UPDATE events SET client_msg_id = @other WHERE conversation_id = @group AND seq > 1`, nil},
		{"created-at", "group", `UPDATE events SET created_at = created_at + interval '1 h' WHERE conversation_id = @group AND seq = 2`, nil},
		{"last-event-at", "group", `UPDATE conversations SET last_event_at = last_event_at + interval '1 s' WHERE id = @group`, nil},
		{"last-xid", "group", `UPDATE conversations SET last_xid = '3' WHERE id = @group`, nil},
		{"departure", "group", `INSERT INTO departures SELECT user_id, @group, now() FROM participants WHERE conversation_id = @group LIMIT 1`, nil},
		{"stamp", "group", `UPDATE events SET xid = '1000000000000' WHERE conversation_id = @group AND seq = 2`, nil},
		{"sender", "group", `UPDATE events SET sender_id = @other WHERE conversation_id = @group AND seq = 2`, nil},
		{"refers", "group", `UPDATE events SET detail = jsonb_build_object('replyTo', @other) WHERE conversation_id = @group AND seq = 3`, nil},
		{"refers", "group", `UPDATE events SET type = 'edit', detail = jsonb_build_object('messageId', id) WHERE conversation_id = @group AND seq = 3`, nil},
		{"refers", "group", `UPDATE events SET detail = (SELECT jsonb_build_object('replyTo', id) FROM events WHERE conversation_id = @direct AND seq = 2) WHERE conversation_id = @group AND seq = 3`, nil},
		{"tombstone", "group", `UPDATE events SET deleted_at = created_at WHERE conversation_id = @group AND seq = 2`, nil},
		{"participant", "group", `INSERT INTO participants SELECT conversation_id, @other, 'member', joined_at, 1 FROM participants WHERE conversation_id = @group LIMIT 1`, nil},
		{"participant", "other", `INSERT INTO participants SELECT @other, user_id, 'member', joined_at, 1 FROM participants WHERE conversation_id = @group LIMIT 1`, nil},
		{"watermark", "group", `UPDATE participants SET read_seq = 4 WHERE conversation_id = @group`, nil},
		{"watermark", "group", `UPDATE participants SET joined_seq = 5 WHERE conversation_id = @group`, nil},
		{"read", "group", `UPDATE participants SET read_seq = 2, read_at = now() WHERE conversation_id = @group`, nil},
		{"read", "direct", `DELETE FROM reads`, nil},
		{"read", "direct", `UPDATE reads SET at = at + interval '1 s'`, nil},
		{"read", "direct", `UPDATE participants SET read_seq = 1, read_at = NULL WHERE conversation_id = @direct`, nil},
		{"reads", "group", `INSERT INTO reads SELECT @group, user_id, 4, now() FROM participants LIMIT 1`, []string{"read"}},
		{"reads", "other", `INSERT INTO reads SELECT @other, user_id, 1, now() FROM participants LIMIT 1`, nil},
		{"delivered", "group", `UPDATE participants SET delivered_seq = 4, delivered_at = now() WHERE conversation_id = @group`, nil},
		{"delivered", "direct", `UPDATE participants SET delivered_at = NULL`, nil},
		{"direct", "direct", `DELETE FROM participants WHERE user_id = (SELECT min(user_id::text)::uuid FROM participants) AND conversation_id = @direct`, nil},
		{"direct", "direct", `INSERT INTO participants SELECT @direct, id, 'member', now(), 1 FROM users WHERE username = 'user2'`, nil},
		{"direct", "direct", `DELETE FROM direct_conversations`, nil},
		{"direct", "direct", `INSERT INTO direct_conversations SELECT '00000000-0000-0000-0000-000000000001', high_user_id, conversation_id FROM direct_conversations`, nil},
		{"owner", "group", `UPDATE participants SET role = 'owner' WHERE conversation_id = @group`, nil},
		{"owner", "group", `UPDATE participants SET role = 'admin' WHERE conversation_id = @group`, nil},
		{"direct-role", "direct", `UPDATE participants SET role = 'owner' WHERE conversation_id = @direct`, nil},
		{"departure", "group", `INSERT INTO departures SELECT user_id, conversation_id, now() FROM participants WHERE conversation_id = @group`, nil},
		{"departure", "direct", `INSERT INTO departures SELECT id, @direct, now() FROM users WHERE username = 'user2'`, nil},
		{"departure", "other", `INSERT INTO departures SELECT id, @other, now() FROM users`, nil},
		{"block", "none", `INSERT INTO blocks SELECT id, @other, now() FROM users`, nil},
		{"search-segments", "group", `UPDATE conversations SET last_seq = 2 WHERE id = @group`, []string{"seq", "last-event-at", "last-xid"}},
		{"search-segments", "other", `INSERT INTO search_segments VALUES (@other, 1, '', 1, 0, '')`, []string{"search-terms"}},
		{"search-segments", "group", `UPDATE search_segments SET first_seq = 2 WHERE conversation_id = @group`, []string{"search-terms"}},
		{"search-segments", "group", `UPDATE search_segments SET last_seq = 4 WHERE conversation_id = @group`, nil},
		{"search-terms", "group", `UPDATE events SET content = 'another' WHERE conversation_id = @group AND seq = 2`, nil},
		{"search-terms", "group", `UPDATE events SET sender_id = (SELECT user_id FROM participants WHERE conversation_id = @group AND user_id <> sender_id) WHERE conversation_id = @group AND seq = 2`, nil},
		{"search-terms", "group", `UPDATE search_segments SET data = data || '\x00' WHERE conversation_id = @group`, nil},
		{"search-terms", "group", `UPDATE search_segments SET first_term = 'x' WHERE conversation_id = @group AND first_term > '\x02'`, nil},
		{"pair", "group", `INSERT INTO direct_conversations SELECT '00000000-0000-0000-0000-000000000001', high_user_id, @group FROM direct_conversations`, nil},
		{"pair", "other", `INSERT INTO direct_conversations SELECT '00000000-0000-0000-0000-000000000001', high_user_id, @other FROM direct_conversations`, nil},
	} {
		t.Run(tt.sql, func(t *testing.T) {
			t.Parallel()
			s := storetest.New(t)
			u := users(t, s, 3)
			direct, _, err := s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Direct, Creator: u[0], Users: u[1:2]}, now)
			if err != nil {
				t.Fatal(err)
			}
			g := group(t, s, now, u[:2]...)
			post(t, s, direct.ID, u[0], 2)
			post(t, s, g.ID, u[1], 2)
			if strings.HasPrefix(tt.rule, "search-") {
				index(t, s)
			}
			moveReads(t, s, now, move(direct.ID, u[1], 2))
			if _, err := s.MoveDelivered(t.Context(), []chat.DeliveredMove{{ConversationID: direct.ID, UserID: u[1], UpTo: 3}}, now); err != nil {
				t.Fatal(err)
			}
			storetest.Check(t, s)

			places := map[string]chat.ID{"direct": direct.ID, "group": g.ID, "other": chat.NewID()}
			sql := tt.sql
			for name, id := range places {
				sql = strings.ReplaceAll(sql, "@"+name, "'"+id.String()+"'::uuid")
			}
			exec(t, s, "DO $$ BEGIN "+sql+"; END $$")
			found, err := s.Verify(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(found, func(v store.Violation) bool {
				return v.Rule == tt.rule && v.Conversation == places[tt.where] && v.Detail != ""
			}) {
				t.Errorf("found %v, want %s in %s", found, tt.rule, tt.where)
			}
			for _, v := range found {
				if v.Rule != tt.rule && !slices.Contains(tt.also, v.Rule) {
					t.Errorf("found %v too", v)
				}
			}
		})
	}
	t.Run("connection", func(t *testing.T) {
		s := storetest.New(t)
		s.Close()
		_, err := s.Verify(t.Context())
		wantError(t, err, chat.Unavailable, "")
	})
}
