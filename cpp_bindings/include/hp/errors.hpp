// What can go wrong, as a tree: the same classes, messages and exit codes as in Python.
//
//   HpError
//   ├─ InputError          a picture or a name from the caller is unusable
//   ├─ ConfigError         an option holds a value that is not allowed
//   ├─ ModelError          ModelNotFound · ChecksumMismatch · CorruptArtifact · SchemaMismatch · UnknownHead
//   ├─ BackendError        BackendUnavailable · ProviderFallback · EngineIncompatible · DeviceOutOfMemory
//   └─ ExportError         VerificationFailed
//
// what() is one sentence: what was given, what is allowed, what to do.
#pragma once

#include <stdexcept>

#include "hp/export.hpp"

namespace hp {

class HP_API HpError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;

    // Exit code of a command that ends with this error.
    virtual int exit_code() const noexcept { return 1; }
    // Name of the class, the same in every language.
    virtual const char* kind() const noexcept { return "HpError"; }
};

#define HP_ERROR(Name, Base, code)                   \
    class HP_API Name : public Base {                \
    public:                                          \
        using Base::Base;                            \
        int exit_code() const noexcept override {    \
            return code;                             \
        }                                            \
        const char* kind() const noexcept override { \
            return #Name;                            \
        }                                            \
    }

HP_ERROR(InputError, HpError, 3);
HP_ERROR(ConfigError, HpError, 2);
HP_ERROR(ModelError, HpError, 4);
HP_ERROR(ModelNotFound, ModelError, 4);
HP_ERROR(ChecksumMismatch, ModelError, 4);
HP_ERROR(CorruptArtifact, ModelError, 4);
HP_ERROR(SchemaMismatch, ModelError, 4);
HP_ERROR(UnknownHead, ModelError, 4);
HP_ERROR(BackendError, HpError, 5);
HP_ERROR(BackendUnavailable, BackendError, 5);
HP_ERROR(ProviderFallback, BackendError, 5);
HP_ERROR(EngineIncompatible, BackendError, 5);
HP_ERROR(DeviceOutOfMemory, BackendError, 5);
HP_ERROR(ExportError, HpError, 6);
HP_ERROR(VerificationFailed, ExportError, 6);

#undef HP_ERROR

}  // namespace hp
