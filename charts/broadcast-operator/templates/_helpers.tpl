{{/* The name of everything: the release's, or release and chart where the release says nothing. */}}
{{- define "operator.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* The labels of the test's pod, which is none of the operator's. */}}
{{- define "operator.testSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels and annotations: (dict "root" . "labels" MORE "annotations" MORE), and "selector" for what is not the operator's. */}}
{{- define "operator.metadata" -}}
{{- $root := .root -}}
{{- $own := include (default "operator.selector" .selector) $root | fromYaml -}}
{{- $own = merge $own (include "operator.commonLabels" $root | fromYaml) -}}
{{- $more := merge (dict) (default dict .labels) $root.Values.commonLabels -}}
{{- range $label, $_ := $more -}}
{{- if hasKey $own $label -}}
{{- fail (printf "the label %s is set by the chart: take it out of commonLabels, podLabels and the like" $label) -}}
{{- end -}}
{{- end -}}
labels:
  {{- merge $own $more | toYaml | nindent 2 }}
{{- with merge (dict) (default dict .annotations) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "operator.commonLabels" -}}
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "operator.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The watched namespaces, separated by commas; nothing means all. */}}
{{- define "operator.namespaces" -}}
{{- if kindIs "slice" .Values.watchNamespaces -}}
{{- join "," .Values.watchNamespaces -}}
{{- else if eq .Values.watchNamespaces "own" -}}
{{- .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{/* What the operator may do where it watches; the values say why. */}}
{{- define "operator.rules" -}}
- apiGroups: [broadcast.dev]
  resources: [broadcastclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [broadcast.dev]
  resources: [broadcastclusters/status]
  verbs: [patch]
- apiGroups: [broadcast.dev]
  resources: [broadcastclusters/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps, persistentvolumeclaims, serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* What every pod with the operator's image has. */}}
{{- define "operator.pod" -}}
serviceAccountName: {{ include "operator.serviceAccount" . }}
automountServiceAccountToken: true
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- range $name := list "imagePullSecrets" "priorityClassName" "nodeSelector" "tolerations" "affinity" }}
{{- with index $.Values $name }}
{{ dict $name . | toYaml }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What every container with the operator's image has. */}}
{{- define "operator.container" -}}
image: "{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: WATCH_NAMESPACE
    value: {{ include "operator.namespaces" . | quote }}
  - name: HEART_IMAGE
    value: {{ default (printf "broadcast/heart:%s" .Chart.AppVersion) .Values.heartImage | quote }}
  - name: NODE_IMAGE
    value: {{ default (printf "broadcast/node:%s" .Chart.AppVersion) .Values.nodeImage | quote }}
  - name: DELETION_PATIENCE_SECONDS
    value: {{ .Values.deletionPatienceSeconds | quote }}
  - name: ADMIN_ADDRESS
    value: "0.0.0.0:9090"
  - name: LOG
    value: {{ .Values.log.level | quote }}
  - name: LOG_FORMAT
    value: {{ .Values.log.format | quote }}
  - name: LEADER_ELECTION
    value: "true"
  - name: LEASE_NAME
    value: {{ include "operator.name" . }}
  - name: POD_NAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: POD_NAMESPACE
    valueFrom:
      fieldRef:
        fieldPath: metadata.namespace
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}
