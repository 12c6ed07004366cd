package compat

import (
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var (
	someUsers    = []string{"u1", "u2", "u3", "u4"}
	someRoles    = []string{"r1", "r2", "r3", "root"}
	alarmMembers = []uint64{11, 22}
)

// The passwords of a random user; root has one that never changes, so that the comparison itself gets in.
var somePasswords = []string{"first", "second", ""}

func (g *generator) pick(list []string) string { return list[g.rng.IntN(len(list))] }

// user draws who makes a request: root in percent of a hundred draws, mostly one of the others in the rest.
func (g *generator) user(rootly int) string {
	switch {
	case g.chance(rootly):
		return "root"
	case g.chance(4):
		return badUser
	case g.chance(4):
		return "" // nobody
	}
	return g.pick(someUsers)
}

func (g *generator) passwordOf(user string) string {
	switch {
	case user == "root":
		return password("root")
	case g.chance(80):
		return somePasswords[0]
	}
	return g.pick(somePasswords)
}

// soon puts off a step for some others.
func (g *generator) soon(s Step) { g.later = append(g.later, due{2 + g.rng.IntN(25), s}) }

func loginStep(user, password string) Step {
	return Step{Op: opLogin, Req: &pb.AuthenticateRequest{Name: user, Password: password}}
}

// logins has everybody log in again soon, root at once.
func (g *generator) logins() {
	if !g.authOn {
		return
	}
	g.later = append(g.later, due{0, loginStep("root", password("root"))})
	for _, user := range someUsers {
		if g.chance(80) {
			g.soon(loginStep(user, somePasswords[0]))
		}
	}
}

// population makes users and roles with some permissions, turns auth on and logs everybody in.
func (g *generator) population() []Step {
	out := []Step{
		{Op: "UserAdd", Req: userAdd("root")}, {Op: "UserGrantRole", Req: grantRole("root", "root")},
	}
	for _, role := range someRoles[:3] {
		out = append(out, Step{Op: "RoleAdd", Req: roleAdd(role)})
		for range 1 + g.rng.IntN(3) {
			out = append(out, Step{Op: "RoleGrantPermission", Req: g.grantPermission(role)})
		}
	}
	for i, user := range someUsers {
		out = append(out, Step{Op: "UserAdd", Req: &pb.AuthUserAddRequest{Name: user, Password: somePasswords[0]}})
		if i < 3 {
			out = append(out, Step{Op: "UserGrantRole", Req: grantRole(user, someRoles[i])})
		}
	}
	out = append(out, Step{Op: "AuthEnable", Req: &pb.AuthEnableRequest{}}, loginStep("root", password("root")))
	for _, user := range someUsers {
		out = append(out, loginStep(user, somePasswords[0]))
	}
	g.authOn = true
	return out
}

func (g *generator) grantPermission(role string) *pb.AuthRoleGrantPermissionRequest {
	key, end := g.interval()
	r := &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: &authpb.Permission{
		PermType: authpb.Permission_Type(g.rng.IntN(3)), Key: key, RangeEnd: end}}
	if g.chance(30) { // most keys, or requests would mostly be refused
		r.Perm.PermType, r.Perm.Key, r.Perm.RangeEnd = authpb.READWRITE, []byte("a"), []byte("d")
	}
	if g.chance(2) {
		r.Perm = nil
	}
	return r
}

// administration draws a request about users and roles. What it takes away is mostly given back some steps later.
func (g *generator) administration() Step {
	s := g.administrationOf()
	if s.User == "" {
		s.User = g.user(85)
	}
	if g.signed && !s.follows() && s.Op != "AuthEnable" {
		g.logins() // all tokens are of an old revision now
	}
	return s
}

func (g *generator) administrationOf() Step {
	user, role := g.pick(someUsers), g.pick(someRoles)
	if g.chance(3) {
		user = "root"
	}
	switch n := g.rng.IntN(100); {
	case n < 2:
		return g.enable()
	case n < 4:
		return g.disable()
	case n < 9:
		r := &pb.AuthUserAddRequest{Name: user, Password: g.passwordOf(user)}
		if user != "root" && g.chance(10) {
			r.Options = &authpb.UserAddOptions{NoPassword: true}
		}
		return Step{Op: "UserAdd", Req: r}
	case n < 12:
		g.soon(Step{Op: "UserAdd", User: "root", Req: &pb.AuthUserAddRequest{Name: user, Password: g.passwordOf(user)}})
		g.soon(Step{Op: "UserGrantRole", User: "root", Req: grantRole(user, role)})
		g.soon(loginStep(user, somePasswords[0]))
		return Step{Op: "UserDelete", Req: userDelete(user)}
	case n < 16:
		p := g.passwordOf(user)
		g.soon(loginStep(user, p))
		return Step{Op: "UserChangePassword", Req: changePassword(user, p)}
	case n < 24:
		return Step{Op: "UserGrantRole", Req: grantRole(user, role)}
	case n < 30:
		g.soon(Step{Op: "UserGrantRole", User: "root", Req: grantRole(user, role)})
		return Step{Op: "UserRevokeRole", Req: revokeRole(user, role)}
	case n < 33:
		return Step{Op: "RoleAdd", Req: roleAdd(role)}
	case n < 35:
		g.soon(Step{Op: "RoleAdd", User: "root", Req: roleAdd(role)})
		g.soon(Step{Op: "RoleGrantPermission", User: "root", Req: g.grantPermission(role)})
		return Step{Op: "RoleDelete", Req: roleDelete(role)}
	case n < 50:
		return Step{Op: "RoleGrantPermission", Req: g.grantPermission(role)}
	case n < 60:
		key, end := g.interval()
		return Step{Op: "RoleRevokePermission", Req: &pb.AuthRoleRevokePermissionRequest{Role: role, Key: key, RangeEnd: end}}
	case n < 75:
		return loginStep(user, g.passwordOf(user))
	}
	return g.question()
}

// question asks about users and roles.
func (g *generator) question() Step {
	switch g.rng.IntN(5) {
	case 0:
		return Step{Op: "UserGet", User: g.user(40), Req: userGet(g.pick(someUsers))}
	case 1:
		return Step{Op: "RoleGet", User: g.user(40), Req: roleGet(g.pick(someRoles))}
	case 2:
		return Step{Op: "UserList", User: g.user(60), Req: &pb.AuthUserListRequest{}}
	case 3:
		return Step{Op: "RoleList", User: g.user(60), Req: &pb.AuthRoleListRequest{}}
	}
	return Step{Op: "AuthStatus", User: g.user(20), Req: &pb.AuthStatusRequest{}}
}

// follower draws what may run at once with a change of keys.
func (g *generator) follower() Step {
	switch g.rng.IntN(6) {
	case 0:
		return g.question()
	case 1:
		user := g.pick(someUsers)
		return loginStep(user, g.passwordOf(user))
	}
	r := g.streamRead()
	r.Revision = currentBase - g.rng.Int64N(10)
	return Step{Op: []string{"Range", opRangeStream}[g.rng.IntN(2)], User: g.user(20), Req: r}
}

func (g *generator) enable() Step {
	g.authOn = true
	g.logins()
	return Step{Op: "AuthEnable", User: "root", Req: &pb.AuthEnableRequest{}}
}

func (g *generator) disable() Step {
	// Whoever turns it on again may find root gone; then it stays off.
	g.soon(Step{Op: "UserAdd", User: "root", Req: userAdd("root")})
	g.soon(Step{Op: "UserGrantRole", User: "root", Req: grantRole("root", "root")})
	on := due{30 + g.rng.IntN(30), Step{Op: "AuthEnable", User: "root", Req: &pb.AuthEnableRequest{}}}
	g.later = append(g.later, on, due{on.in + 1, loginStep("root", password("root"))})
	for _, user := range someUsers {
		g.later = append(g.later, due{on.in + 2 + g.rng.IntN(20), loginStep(user, somePasswords[0])})
	}
	return Step{Op: "AuthDisable", User: g.user(80), Req: &pb.AuthDisableRequest{}}
}

// alarm raises or clears an alarm, or asks for all. One that is raised is mostly cleared soon.
func (g *generator) alarm() Step {
	r := &pb.AlarmRequest{MemberID: alarmMembers[g.rng.IntN(len(alarmMembers))], Alarm: pb.AlarmType(1 + g.rng.IntN(2))}
	switch g.rng.IntN(3) {
	case 0:
		r.Action = pb.AlarmRequest_ACTIVATE
		off := &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: r.MemberID, Alarm: r.Alarm}
		g.soon(Step{Op: "Alarm", User: "root", Req: off})
	case 1:
		r.Action = pb.AlarmRequest_DEACTIVATE
	default:
		r.Alarm = pb.AlarmType(g.rng.IntN(3))
	}
	return Step{Op: "Alarm", User: g.user(80), Req: r}
}
