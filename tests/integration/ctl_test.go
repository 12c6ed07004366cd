package integration

import (
	"testing"
	"time"
)

var formats = []string{"simple", "json", "fields"}

// TestCtlKeys: put, get with every flag, del, txn and compaction.
func TestCtlKeys(t *testing.T) {
	for _, format := range formats {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			compareCtl(t, format, func(c *ctl) {
				c.grant()
				for _, command := range []string{
					`put a 1`, `put b 3`, `put c 2`, `put a 4 --prev-kv`, `put bb x --lease=$LEASE`, `put bb --ignore-value`,
					`put bb y --ignore-lease --prev-kv`, `put "" x`, `put nokey --ignore-value`, `put k v --lease=1234`, `put onlykey`,
					`get a`, `get none`, `get a c`, `get b --prefix`, `get "" --prefix`, `get b --from-key`, `get "" --from-key`,
					`get a --consistency=s`, `get a --consistency=x`, `get a z --count-only`, `get a z --keys-only`,
					`get a z --limit=2`, `get a z --limit=2 --stream`, `get a z --stream`, `get a --rev=2`, `get a --rev=3`, `get a --rev=99`,
					`get a z --order=DESCEND`, `get a z --order=ASCEND --sort-by=VALUE`, `get a z --sort-by=CREATE`, `get a z --sort-by=MODIFY`,
					`get a z --sort-by=VERSION --order=DESCEND`, `get a z --sort-by=KEY`, `get a z --sort-by=NONSENSE`, `get a z --order=NONSENSE`,
					`get a z --min-mod-rev=4`, `get a z --max-mod-rev=4`, `get a z --min-create-rev=3 --max-create-rev=4`,
					`get a z --print-value-only`, `get a z --stream --sort-by=VALUE --order=DESCEND`, `get a --prefix --from-key`, `get`,
				} {
					c.run("", command)
				}
				c.run("value(\"a\") = \"4\"\n\nput a 5\nget a z\ndel c\n\nput a 6\n\n", "txn -i")
				c.run("version(\"none\") = \"0\"\nmod(\"a\") > \"1\"\ncreate(\"a\") < \"9\"\n\nget a\n\nget b\n\n", "txn")
				c.run("\nput d 1\nput d 2\n\n\n", "txn")
				for _, command := range []string{
					`del a --prev-kv`, `del none`, `del b --prefix --prev-kv`, `put x 1`, `put y 1`, `del x z`, `put x 1`, `del x --from-key`,
					`compaction 5`, `compaction 5`, `compaction 999`, `compaction 6 --physical`, `compaction nonsense`,
					`get a --rev=3`, `get a --rev=6`, `get "" --prefix`, `del "" --prefix`,
				} {
					c.run("", command)
				}
			})
		})
	}
}

// TestCtlLeases: grant, time-to-live, list, one keep-alive, revoke.
func TestCtlLeases(t *testing.T) {
	for _, format := range formats {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			compareCtl(t, format, func(c *ctl) {
				c.run("", "lease list")
				c.grant()
				for _, command := range []string{
					`put k v --lease=$LEASE`, `lease timetolive $LEASE`, `lease timetolive $LEASE --keys`, `lease list`,
					`lease keep-alive --once $LEASE`, `lease revoke $LEASE`, `lease revoke $LEASE`, `lease timetolive $LEASE`, `get k`,
					`lease keep-alive --once $LEASE`, `lease grant nonsense`, `lease grant 9000000001`, `lease timetolive xyz`, `lease list`,
				} {
					c.run("", command)
				}
			})
		})
	}
}

// TestCtlMember: endpoint status and health, member list.
func TestCtlMember(t *testing.T) {
	t.Parallel()
	compareCtl(t, "", func(c *ctl) {
		awaitStorageVersion(c)
		for _, format := range append(formats, "table") {
			c.format = format
			for _, command := range []string{`member list`, `member list --consistency=s`, `alarm list`, `version`} {
				c.run("", command)
			}
			if format != "table" { // its columns are as wide as what is masked
				c.run("", `endpoint health`)
				c.run("", `endpoint status`)
			}
		}
	})
}

// awaitStorageVersion waits for what a member tells its cluster in the background after it is ready.
func awaitStorageVersion(c *ctl) {
	client, ctx := newClient(c.t, c.server.Endpoint())
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for range poll.C {
		resp, err := client.Status(ctx, c.server.Endpoint())
		must(c.t, err)
		if resp.StorageVersion == "3.7.0" {
			return
		}
	}
}

// TestCtlWatch: watches print history and live events; interactive ones also take commands.
func TestCtlWatch(t *testing.T) {
	for format, lines := range map[string]int{"simple": 3 + 3, "json": 1} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			compareCtl(t, format, func(c *ctl) {
				for _, command := range []string{`put a 1`, `put a 2`, `put ab 3`, `del a`, `put b 4`} {
					c.run("", command)
				}
				w := c.start(`watch a --rev=4 --prefix`)
				w.expect(lines)
				w.end()
				if format == "simple" {
					watchSimple(c)
				}
			})
		})
	}
}

// watchSimple covers the interactive mode and previous values, whose lines are easy to count in this format.
func watchSimple(c *ctl) {
	w := c.start(`watch a --rev=3 --prev-kv`)
	w.expect(5 + 5) // type, old pair, new pair; a deletion has an empty new value
	w.end()
	w = c.start(`watch -i`)
	w.send(`watch b --rev=1`)
	w.expect(3)
	w.send(`progress`)
	w.expect(1)
	w.send(`watch c`)
	w.send(`progress`)
	w.expect(1)
	c.run("", `put c 9`)
	w.expect(3)
	w.end()
	c.run("", `compaction 4`)
	c.run("", `watch a --rev=2`)
}

// TestCtlLockAndElect: the recipes that etcdctl brings itself.
func TestCtlLockAndElect(t *testing.T) {
	t.Parallel()
	compareCtl(t, "simple", func(c *ctl) {
		c.run("", `lock first echo held`)
		c.run("", `lock first false`)
		holder := c.start(`lock second`)
		holder.expect(1)
		holder.end()
		leader := c.start(`elect office one`)
		leader.expect(2)
		listener := c.start(`elect office --listen`)
		listener.expect(2)
		listener.end()
		leader.end()
	})
}
