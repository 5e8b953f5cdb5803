package identity_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store/storetest"
)

func TestForgedTokens(t *testing.T) {
	t.Parallel()
	s := node(t, storetest.New(t), newClock())
	u := register(t, s, "alice")
	kid, key, err := s.Signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	// sign makes a token that is good but for what the test changes.
	sign := func(method jwt.SigningMethod, with any, change func(header, claims map[string]any)) string {
		tok := jwt.NewWithClaims(method, jwt.MapClaims{
			"iss": "parley", "aud": "parley", "sub": u.ID.String(), "name": "alice", "iat": begin.Unix(), "exp": begin.Add(time.Minute).Unix(),
		})
		tok.Header["kid"], tok.Header["typ"] = kid, "at+jwt"
		if change != nil {
			claims := maps.Clone(tok.Claims.(jwt.MapClaims))
			change(tok.Header, claims)
			tok.Claims = claims
		}
		text, err := tok.SignedString(with)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	claim := func(name string, value any) string {
		return sign(jwt.SigningMethodEdDSA, key, func(_, claims map[string]any) {
			claims[name] = value
			if value == nil {
				delete(claims, name)
			}
		})
	}
	right := sign(jwt.SigningMethodEdDSA, key, nil)
	p, err := s.VerifyToken(t.Context(), right)
	if want := (chat.Principal{UserID: u.ID, Username: "alice"}); err != nil || p != want {
		t.Fatalf("VerifyToken = %+v, %v, want %+v", p, err, want)
	}
	good(t, s, claim("exp", begin.Add(-20*time.Second).Unix()), "within the leeway")
	good(t, s, claim("nbf", begin.Add(20*time.Second).Unix()), "within the leeway")
	good(t, s, claim("iat", begin.Add(40*time.Second).Unix()), "issued by a node whose clock is ahead")
	good(t, s, claim("iat", begin.Add(24*time.Hour).Unix()), "iat is no validity time")
	good(t, s, claim("sub", strings.ToUpper(u.ID.String())), "an id in upper case")

	for name, token := range map[string]string{
		"empty":              "",
		"garbage":            "a.b.c",
		"two parts":          right[:strings.LastIndex(right, ".")],
		"no signature":       right[:strings.LastIndex(right, ".")+1],
		"another's payload":  swapPayload(right, claim("name", "root")),
		"one bit":            flip(right, len(right)-10),
		"too long":           right + strings.Repeat("A", 8<<10),
		"alg none":           sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil),
		"HMAC by public key": sign(jwt.SigningMethodHS256, []byte(key.Public().(ed25519.PublicKey)), nil),
		"another key":        sign(jwt.SigningMethodEdDSA, stranger, nil),
		"kid unknown":        sign(jwt.SigningMethodEdDSA, stranger, func(h, _ map[string]any) { h["kid"] = "nobody's" }),
		"kid missing":        sign(jwt.SigningMethodEdDSA, key, func(h, _ map[string]any) { delete(h, "kid") }),
		"kid no text":        sign(jwt.SigningMethodEdDSA, key, func(h, _ map[string]any) { h["kid"] = 7 }),
		"an id token":        sign(jwt.SigningMethodEdDSA, key, func(h, _ map[string]any) { h["typ"] = "JWT" }),
		"critical extension": sign(jwt.SigningMethodEdDSA, stranger, func(h, _ map[string]any) { h["crit"] = []string{"b64"} }),
		"expired":            claim("exp", begin.Add(-time.Minute).Unix()),
		"without end":        claim("exp", nil),
		"not yet":            claim("nbf", begin.Add(time.Minute).Unix()),
		"another issuer":     claim("iss", "elsewhere"),
		"no issuer":          claim("iss", nil),
		"another audience":   claim("aud", "elsewhere"),
		"no audience":        claim("aud", nil),
		"no subject":         claim("sub", nil),
		"subject no id":      claim("sub", "alice"),
		"iat no number":      claim("iat", "now"),
		"login no id":        claim("sid", "1"),
		"admin no bool":      claim("admin", "yes"),
	} {
		refused(t, s, token, name)
	}
	_, err = s.VerifyToken(t.Context(), claim("exp", begin.Add(-time.Minute).Unix()))
	if strings.Contains(err.Error(), right[:40]) {
		t.Errorf("the error holds the token: %v", err)
	}
}

// flip changes a bit of a character that remains base64url.
func flip(token string, at int) string {
	c := byte('A')
	if token[at] == c {
		c = 'B'
	}
	return token[:at] + string(c) + token[at+1:]
}

// swapPayload gives token the payload of another.
func swapPayload(token, other string) string {
	a, b := strings.Split(token, "."), strings.Split(other, ".")
	return a[0] + "." + b[1] + "." + a[2]
}

func TestOperatorsToken(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := node(t, storetest.New(t), c)
	u := register(t, s, "alice")
	token, expires, err := s.IssueToken(t.Context(), "alice", 48*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if want := begin.Add(48 * time.Hour).Truncate(time.Second); !expires.Equal(want) {
		t.Errorf("expires %v, want %v", expires, want)
	}
	if p, err := s.VerifyToken(t.Context(), token); err != nil || p.UserID != u.ID || !p.LoginID.IsZero() {
		t.Errorf("VerifyToken = %+v, %v", p, err)
	}
	c.advance(47 * time.Hour)
	good(t, s, token, "before its end")
	c.advance(2 * time.Hour)
	refused(t, s, token, "after its end")

	_, _, err = s.IssueToken(t.Context(), "nobody", time.Hour)
	wantCode(t, "IssueToken for nobody", err, chat.NotFound)
	for _, ttl := range []time.Duration{-1, 0, time.Millisecond, 31 * 24 * time.Hour} {
		_, _, err = s.IssueToken(t.Context(), "alice", ttl)
		wantCode(t, "IssueToken for "+ttl.String(), err, chat.Invalid)
	}
	if _, err := s.SetDisabled(t.Context(), "alice", true); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.IssueToken(t.Context(), "alice", time.Hour)
	wantCode(t, "IssueToken for a disabled user", err, chat.Conflict)
}

// The vector of RFC 8037, A.3.
func TestKeyIDIsTheThumbprint(t *testing.T) {
	t.Parallel()
	seed := []byte("\x9d\x61\xb1\x9d\xef\xfd\x5a\x60\xba\x84\x4a\xf4\x92\xec\x2c\xc4\x44\x49\xc5\x69\x7b\x32\x69\x19\x70\x3b\xac\x03\x1c\xae\x7f\x60")
	pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	if got, want := identity.KeyID(pub), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; got != want {
		t.Errorf("KeyID = %q, want %q", got, want)
	}
}

func TestRotationLogsNobodyOut(t *testing.T) {
	t.Parallel()
	db, c := storetest.New(t), newClock()
	a, b := node(t, db, c), node(t, db, c)
	register(t, a, "alice")
	old := logIn(t, a, "alice")
	good(t, b, old.AccessToken, "before the rotation, elsewhere")
	if err := a.RotateKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	young := logIn(t, a, "alice")
	for name, s := range map[string]*identity.Service{"here": a, "elsewhere": b, "on a node started later": node(t, db, c)} {
		good(t, s, old.AccessToken, "the old token "+name)
		good(t, s, young.AccessToken, "the new token "+name)
	}
	if _, err := b.Refresh(t.Context(), old.RefreshToken); err != nil {
		t.Errorf("Refresh after the rotation: %v", err)
	}
	jwks, err := b.JWKS(t.Context())
	if err != nil || len(jwks) != 2 {
		t.Fatalf("JWKS = %v, %v, want two keys", jwks, err)
	}
	kid, key, err := a.Signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if jwks[0].KID != kid || kid != identity.KeyID(key.Public().(ed25519.PublicKey)) {
		t.Errorf("first key %q, want the one that signs, %q", jwks[0].KID, kid)
	}
}

// A key is replaced when it is old, and forgotten when all it signed has expired.
func TestKeysGrowOld(t *testing.T) {
	t.Parallel()
	db, c := storetest.New(t), newClock()
	s := node(t, db, c, func(o *identity.Options) { o.LoginTTL = 365 * 24 * time.Hour })
	register(t, s, "alice")
	session := logIn(t, s, "alice")
	first, _, err := s.Signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	round := func(d time.Duration) (kid string, keys int) {
		t.Helper()
		c.advance(d)
		if err := s.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		kid, _, err := s.Signer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stored, err := db.ListSigningKeys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return kid, len(stored)
	}
	if kid, n := round(89 * 24 * time.Hour); kid != first || n != 1 {
		t.Errorf("after 89 days: key %q of %d, want the first of 1", kid, n)
	}
	session, err = s.Refresh(t.Context(), session.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	if kid, n := round(24 * time.Hour); kid == first || n != 2 {
		t.Errorf("after 90 days: key %q of %d, want a new one of 2", kid, n)
	}
	if _, n := round(29 * 24 * time.Hour); n != 2 {
		t.Errorf("after 119 days: %d keys, want 2: an operator's token may live", n)
	}
	if _, n := round(2 * 24 * time.Hour); n != 1 {
		t.Errorf("after 121 days: %d keys, want 1", n)
	}
	if _, err := s.Refresh(t.Context(), session.RefreshToken); err != nil {
		t.Errorf("Refresh after all that: %v", err)
	}
}

func TestNodesStartingTogetherMakeOneKey(t *testing.T) {
	t.Parallel()
	db, c := storetest.New(t), newClock()
	kids := make(chan string, 8)
	var wg sync.WaitGroup
	for range cap(kids) {
		s := node(t, db, c)
		wg.Go(func() {
			kid, _, err := s.Signer(t.Context())
			if err != nil {
				t.Error(err)
			}
			kids <- kid
		})
	}
	wg.Wait()
	close(kids)
	all := map[string]bool{}
	for kid := range kids {
		all[kid] = true
	}
	if len(all) != 1 {
		t.Errorf("%d keys, want 1", len(all))
	}
}

func TestMadeUpKeyIDsCostNoQueries(t *testing.T) {
	t.Parallel()
	db, c := &faultyStore{Store: storetest.New(t)}, newClock()
	a, b := node(t, db, c), node(t, db, c)
	register(t, a, "alice")
	good(t, b, logIn(t, a, "alice").AccessToken, "at first")

	token := func() string {
		tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{})
		tok.Header["kid"], tok.Header["typ"] = chat.NewID().String(), "at+jwt"
		_, key, _ := ed25519.GenerateKey(nil)
		text, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	before := db.keyReads
	for range 100 {
		refused(t, b, token(), "made up")
	}
	if got := db.keyReads - before; got != 1 {
		t.Errorf("100 made-up key ids cost %d queries, want 1", got)
	}
	if err := a.RotateKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	young := logIn(t, a, "alice").AccessToken
	c.advance(time.Second)
	good(t, b, young, "a second later")
}

func pemOf(t *testing.T, keys ...any) []byte {
	t.Helper()
	var out []byte
	for _, k := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	}
	return out
}

func TestKeyFromFile(t *testing.T) {
	t.Parallel()
	db, c := storetest.New(t), newClock()
	_, k1, _ := ed25519.GenerateKey(nil)
	_, k2, _ := ed25519.GenerateKey(nil)
	withFile := func(keys ...any) *identity.Service {
		return node(t, db, c, func(o *identity.Options) { o.SigningPEM = pemOf(t, keys...) })
	}
	inDB := node(t, db, c)
	register(t, inDB, "alice")
	fromDB := logIn(t, inDB, "alice").AccessToken

	first := withFile(k1)
	fromFile := logIn(t, first, "alice").AccessToken
	good(t, first, fromDB, "signed before the file came")
	good(t, first, fromFile, "signed by the file's key")
	good(t, withFile(k2, k1), fromFile, "signed by the file's second key")
	refused(t, withFile(k2), fromFile, "signed by a key taken out of the file")

	seed := k1.Seed()
	for name, text := range map[string][]byte{
		"empty block": []byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"),
		"public key":  pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: seed}),
		"raw seed":    seed,
	} {
		_, err := identity.New(identity.Options{Store: db, SigningPEM: text})
		if err == nil || strings.Contains(err.Error(), string(seed)) {
			t.Errorf("%s: New = %v, want an error without the key in it", name, err)
		}
	}
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	db, c := &faultyStore{Store: storetest.New(t)}, newClock()
	s := node(t, db, c)
	register(t, s, "alice")
	token := logIn(t, s, "alice").AccessToken
	good(t, s, token, "at first")
	db.revocations = &chat.Error{Code: chat.Unavailable, Err: errors.New("away")}
	c.advance(9 * time.Second)
	good(t, s, token, "while what is known is young enough")
	c.advance(2 * time.Second)
	_, err := s.VerifyToken(t.Context(), token)
	wantCode(t, "VerifyToken when nothing is known", err, chat.Unavailable)
	db.revocations = nil
	good(t, s, token, "when it is back")
}
