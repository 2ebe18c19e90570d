{{- define "kvasir.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "kvasir.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kvasir.labels" -}}
{{ include "kvasir.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The daemon's whole configuration. */}}
{{- define "kvasir.config" -}}
{{- $server := dict
      "listen" (printf "0.0.0.0:%v" .Values.service.grpcPort)
      "authentication" (dict "anonymous" .Values.auth.anonymous)
      "drain_timeout_seconds" 30
      "drain_grace_seconds" 3 }}
{{- with .Values.tls.secret }}
{{- $tls := dict "certificate_file" "/run/secrets/kvasird/tls/tls.crt" "private_key_file" "/run/secrets/kvasird/tls/tls.key" }}
{{- if $.Values.tls.clientCaConfigMap }}{{ $_ := set $tls "client_ca_file" "/run/secrets/kvasird/client-ca/ca.crt" }}{{ end }}
{{- $_ := set $server "tls" $tls }}
{{- end }}
{{- $models := list }}
{{- range .Values.models.list }}
{{- $model := deepCopy . }}
{{- if $.Values.spill.enabled }}
{{- $sessions := mergeOverwrite
      (dict "spill_directory" (printf "/var/lib/kvasir/%s" (.name | replace "/" "-"))
            "max_spill_bytes" $.Values.spill.maxBytesPerModel
            "max_prefix_spill_bytes" $.Values.spill.maxPrefixBytesPerModel) (default dict .sessions) }}
{{- if not $sessions.max_spill_bytes }}{{ $_ := unset $sessions "max_spill_bytes" }}{{ end }}
{{- if not $sessions.max_prefix_spill_bytes }}{{ $_ := unset $sessions "max_prefix_spill_bytes" }}{{ end }}
{{- $_ := set $model "sessions" $sessions }}
{{- end }}
{{- $models = append $models $model }}
{{- end }}
{{- $config := dict
      "models" $models
      "server" $server
      "http" (dict "listen" (printf "0.0.0.0:%v" .Values.service.httpPort))
      "metrics" (dict "listen" (printf "0.0.0.0:%v" .Values.service.metricsPort) "compat" "vllm")
      "logging" (dict "format" "json") }}
{{- if .Values.auth.tenants }}{{ $_ := set $config "tenants" .Values.auth.tenants }}{{ end }}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.config)) }}
{{- end }}

{{/* The models that are named on a hub, as a JSON list of their names there. */}}
{{- define "kvasir.pulled" -}}
{{- $names := list }}
{{- range .Values.models.list }}{{ if hasPrefix "hf:" .path }}{{ $names = append $names .path }}{{ end }}{{ end }}
{{- $names | uniq | toJson }}
{{- end }}

{{/* How the kubelet asks: root, path (of the metrics port), service (of gRPC's health). */}}
{{- define "kvasir.probe" -}}
{{- if .root.Values.tls.secret -}}
httpGet: {path: {{ .path }}, port: metrics}
{{- else -}}
grpc: {port: {{ .root.Values.service.grpcPort }}{{ with .service }}, service: {{ . }}{{ end }}}
{{- end }}
{{- end }}
