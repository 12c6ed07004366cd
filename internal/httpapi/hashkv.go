package httpapi

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"

	"go.uber.org/zap"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// maxHashRequest bounds the body of a request for a checksum: it is one number.
const maxHashRequest = 4 << 10

// hashKV answers other members that compare their data with this one's. Texts and codes are what etcd's
// members recognise.
func hashKV(cfg Config) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		cluster := strconv.FormatUint(cfg.Backend.ClusterID(), 16)
		if theirs := r.Header.Get("X-Etcd-Cluster-ID"); theirs != "" && theirs != cluster {
			http.Error(w, "cluster ID mismatch", http.StatusPreconditionFailed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxHashRequest))
		if err != nil {
			http.Error(w, "error reading body", http.StatusBadRequest)
			return
		}
		req := &etcdserverpb.HashKVRequest{}
		if err := json.Unmarshal(body, req); err != nil {
			cfg.Logger.Warn("failed to unmarshal request", zap.Error(err))
			http.Error(w, "error unmarshalling request", http.StatusBadRequest)
			return
		}
		hash, current, err := cfg.Backend.HashKV(req.GetRevision())
		if err != nil {
			cfg.Logger.Warn("failed to get hashKV", zap.Int64("requested-revision", req.GetRevision()), zap.Error(err))
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := json.Marshal(&etcdserverpb.HashKVResponse{
			Header: &etcdserverpb.ResponseHeader{Revision: current},
			Hash:   hash.Sum, CompactRevision: hash.Compacted, HashRevision: hash.Revision,
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("X-Etcd-Cluster-ID", cluster)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(out) // the other member has gone
	}
}
