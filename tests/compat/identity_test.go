package compat

import (
	"strings"
	"testing"
	"time"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// cheapPasswords makes logins quick: bcrypt's least cost.
const cheapPasswords = "--bcrypt-cost=4"

// mostUsers are those whose rights differ in kind; each tries everything.
func mostUsers() []caller {
	var out []caller
	for _, user := range []string{"root", "reader", "writer", "foreign", "open", "joined", "roleless"} {
		out = append(out, signedIn(user))
	}
	return out
}

// TestSimpleTokens: what everybody may do, each user with a simple token.
func TestSimpleTokens(t *testing.T) {
	for _, c := range append([]caller{nobody}, mostUsers()...) {
		t.Run(c.name, func(t *testing.T) {
			compare(t, harness.Options{Args: []string{cheapPasswords}}, func(r *Recorder) {
				w := newRealm(r)
				w.tryAll(c)
			})
		})
	}
}

// TestSimpleTokenForms: how a token comes, and tokens that hold no longer or never did.
func TestSimpleTokenForms(t *testing.T) {
	in := func(key, before, user string) caller {
		return caller{name: user + " in " + key + " after " + before, metadata: func(w *realm) []string { return []string{key, before + w.token(user)} }}
	}
	compare(t, harness.Options{Args: []string{cheapPasswords}}, func(r *Recorder) {
		w := newRealm(r)
		gone := w.token("victim")
		w.does(signedIn("root"), &pb.AuthUserDeleteRequest{Name: "victim"})
		full := []caller{
			with("user deleted since", "token", gone),
			with("unknown text", "token", "nonsense"),
			with("forged with a small index", "token", "abcdefghijklmnop.3"),
			with("empty", "token", ""),
			in("authorization", "Bearer ", "root"),
		}
		for _, c := range full {
			w.tryAll(c)
		}
		for _, c := range []caller{
			in("token", "", "reader"), in("token", "Bearer ", "reader"), in("authorization", "", "reader"), in("authorization", "Bearer ", "reader"),
			in("token", "bearer ", "reader"), in("token", " ", "reader"), in("authorization", "Bearer Bearer ", "reader"), in("authorization", "Basic ", "reader"),
			with("empty in authorization", "authorization", ""), with("only the word", "authorization", "Bearer "),
			with("index 0", "token", "abcdefghijklmnop.0"), with("no index", "token", "abcdefghijklmnop."), with("negative index", "token", "abcdefghijklmnop.-1"),
			with("index of letters", "token", "abcdefghijklmnop.x"), with("two points", "token", "abcdefghijklmnop.1.1"), with("only a point", "token", "."),
			with("index with a sign", "token", "abcdefghijklmnop.+3"), with("index beyond 64 bits", "token", "a.99999999999999999999999"),
			{name: "token before authorization", metadata: func(w *realm) []string {
				return []string{"authorization", w.token("root"), "token", w.token("reader")}
			}},
			{name: "bad token before a good authorization", metadata: func(w *realm) []string {
				return []string{"authorization", w.token("root"), "token", "nonsense"}
			}},
			{name: "two tokens", metadata: func(w *realm) []string { return []string{"token", w.token("reader"), "token", w.token("root")} }},
			{name: "two tokens, the first bad", metadata: func(w *realm) []string { return []string{"token", "nonsense", "token", w.token("root")} }},
			{name: "prefix of another's index", metadata: func(w *realm) []string {
				prefix, _, _ := strings.Cut(w.token("root"), ".")
				return []string{"token", prefix + ".3"}
			}},
		} {
			w.tryOne(c)
		}
	})
}

// TestExpiredSimpleToken: a token lives as long as it is used at least every --auth-token-ttl seconds.
func TestExpiredSimpleToken(t *testing.T) {
	compare(t, harness.Options{Args: []string{cheapPasswords, "--auth-token-ttl=1"}}, func(r *Recorder) {
		w := newRealm(r)
		var expired []caller
		for _, user := range []string{"reader", "root"} {
			expired = append(expired, with("expired token of "+user, "token", w.token(user)))
			w.tryOne(expired[len(expired)-1])
		}
		// Longer than etcd needs to see it: the time to live and a round of its cleaner.
		<-time.After(4 * time.Second)
		for _, c := range expired {
			w.tryAll(c)
		}
	})
}

// TestNoTokens: --auth-token= issues none.
func TestNoTokens(t *testing.T) {
	compare(t, harness.Options{Args: []string{cheapPasswords, "--auth-token="}}, func(r *Recorder) {
		w := newRealm(r)
		for _, c := range []caller{nobody, with("any token", "token", "nonsense"), with("empty", "token", "")} {
			w.tryOne(c)
		}
	})
}
